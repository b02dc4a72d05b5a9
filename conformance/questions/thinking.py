"""What THINK asks: what has to be thought about."""

from conformance.questions.chat import HOW, N_WHOLE, chat, user

CAPABILITY = "reasoning"
RIDDLE = "I have two sisters, and each of them has one brother. How many children are we?"
THOUGHT = {
    how: chat(
        {
            "messages": user(RIDDLE),
            "max_tokens": N_WHOLE,
            "reasoning_effort": "medium",
            **fields,
        },
        CAPABILITY,
    )
    for how, fields in HOW.items()
}
