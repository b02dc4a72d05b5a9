"""Chats that templates drop parts of or refuse, unless they are fitted to them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from service.protocol import Tool, ToolCall, Turn

ADD = Tool("add", "Adds.", '{"type": "object", "properties": {"a": {"type": "integer"}}}')
RULE, RULE_2 = Turn("system", "Rule one holds."), Turn("system", "Rule two holds.")
ASK, ASK_2 = Turn("user", "Question one?"), Turn("user", "Question two?")
REPLY, REPLY_2 = Turn("assistant", "Answer one."), Turn("assistant", "Answer two.")
CALL = ToolCall("call_0a1b2c3d4e5f60718293a4b5", "addition", '{"alpha": "bravo \\"x\\""}')
CALL_2 = ToolCall("call_1b1b2c3d4e5f60718293a4b5", "subtraction", '{"charlie": 7}')
CALLING = Turn("assistant", tool_calls=(CALL,))
CALLING_BOTH = Turn("assistant", "Let me see.", tool_calls=(CALL, CALL_2))
RESULT = Turn("tool", "Result one is 3.", tool_call_id=CALL.id)
RESULT_2 = Turn("tool", "Result two is 4.", tool_call_id=CALL_2.id)

CHATS = {
    "a system turn alone": (RULE,),
    "two system turns": (RULE, RULE_2, ASK),
    "two system turns alone": (RULE, RULE_2),
    "a system turn between": (RULE, ASK, REPLY, RULE_2, ASK_2),
    "a system turn late": (ASK, REPLY, RULE, ASK_2),
    "a system turn last": (ASK, REPLY, ASK_2, RULE),
    "a system turn behind a result": (RULE, ASK, CALLING, RESULT, RULE_2),
    "an answer first": (REPLY, ASK),
    "an answer behind the system": (RULE, REPLY, ASK),
    "neighbours": (ASK, ASK_2, REPLY, REPLY_2, ASK),
    "an answer last": (RULE, ASK, REPLY),
    "an empty answer": (ASK, Turn("assistant"), ASK_2),
    "a call": (RULE, ASK, CALLING, RESULT),
    "a call and an answer": (RULE, ASK, CALLING, RESULT, REPLY, ASK_2),
    "a question behind a result": (ASK, CALLING, RESULT, ASK_2),
    "text beside calls": (RULE, ASK, CALLING_BOTH, RESULT_2, RESULT),
    "text beside calls and an answer": (ASK, CALLING_BOTH, RESULT, RESULT_2, REPLY, ASK_2, REPLY_2),
    "two rounds": (ASK, CALLING_BOTH, RESULT, RESULT_2, CALLING_BOTH, RESULT, RESULT_2),
    "text, then a call": (ASK, REPLY, CALLING, RESULT, REPLY_2, ASK_2),
    "a question behind text and calls": (ASK, CALLING_BOTH, RESULT, RESULT_2, ASK_2),
    "a call without a result": (ASK, CALLING, ASK_2),
    "a result without a call": (ASK, RESULT, ASK_2),
}


def missing_words(turns: Sequence[Turn], text: str) -> set[str]:
    """Return the words that *turns* say, calls included, and *text* doesn't."""
    texts = [turn.content or "" for turn in turns]
    calls = [call for turn in turns for call in turn.tool_calls]
    texts += [f"{call.name} {call.arguments}" for call in calls]
    return {word for word in re.findall(r"[A-Za-z]{2,}", " ".join(texts)) if word not in text}
