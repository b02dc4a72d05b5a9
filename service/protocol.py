"""
What the API process and an engine process say to each other, and how it is framed.

One socket pair joins the two. Each message is a msgpack array, tagged by its type, behind its length
as four big-endian bytes. Nobody else ever speaks on that socket, so a frame that does not decode is a
bug and ends the connection.

    API process                          engine process
        Load          ───────────────>
                      <───────────────   Loaded | LoadFailed
                      <───────────────   WarmedUp
        Submit        ───────────────>
                      <───────────────   Accepted | Rejected
                      <───────────────   Step (deltas of many tickets at once) | Failed
        Cancel        ───────────────>
                      <───────────────   Cancelled, and nothing more for that ticket
        Tokenize      ───────────────>
                      <───────────────   Tokenized | Rejected | Failed
        Detokenize    ───────────────>
                      <───────────────   Detokenized | Rejected | Failed
        Embed         ───────────────>
                      <───────────────   Accepted | Rejected
                      <───────────────   Embedded | Failed
        Score         ───────────────>
                      <───────────────   Accepted | Rejected
                      <───────────────   Scored | Failed

        at any time   <───────────────   Heartbeat, a few times a second
                      <───────────────   CacheFault
        before Loaded <───────────────   Downloading, now and then, and when that is over

Either side's death is the end of file on the other's socket.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

MAX_FRAME_BYTES = 256 * 1024 * 1024
# Bounds of what steps take, in seconds: from a small model's token to a large one's prefill (taste).
STEP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

FinishReason = Literal["stop", "length", "tool_calls"]
ConstraintKind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]
ModelKind = Literal["lm", "multimodal", "embeddings", "reranker"]
GENERATING: tuple[ModelKind, ...] = ("lm", "multimodal")
"""Kinds of models that answer."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message; its class is its tag."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a message; it stands nowhere alone."""


class ToolCall(Part, frozen=True):
    """
    A call that an assistant turn made.

    Attributes:
        arguments: a JSON object as text, known to be valid; of a call that is cut only its beginning.
        is_cut: the answer's limit cut the call.
    """

    id: str
    name: str
    arguments: str
    is_cut: bool = False


class Turn(Part, frozen=True):
    """
    One message of a chat.

    Attributes:
        role: system, user, assistant or tool.
        name: who of this role speaks; of a tool's result, the tool.
        tool_calls: what an assistant turn called.
        tool_call_id: the call that a tool turn answers.
        reasoning: what an assistant turn thought first, where the client sends that back.
    """

    role: str
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


class Tool(Part, frozen=True):
    """
    A function that the model may call.

    Attributes:
        parameters: JSON Schema of its arguments, an object, as JSON text.
        strict: arguments that break the schema may not even be generated.
    """

    name: str
    description: str | None = None
    parameters: str = "{}"
    strict: bool = False


class Chat(Part, frozen=True, tag=True):
    """
    A prompt in turns, for the model's chat template.

    Attributes:
        turns: the chat so far, at least one turn.
        tools: what the model may call; with none, nothing in its answer is read as a call.
        thinking: whether it shall think first; None: as its template does by itself.
        template_options: further values for the template, a JSON object as text.
        add_generation_prompt: end the prompt with what the template puts before an answer.
        continue_final_message: end it inside of the last turn instead, which the answer goes on with.
        images: files of images, in the order in which they stand in the turns.
        image_mark: stands in a turn's content where an image is, and in no other text.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None
    template_options: str = "{}"
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    images: tuple[bytes, ...] = ()
    image_mark: str = ""


class Text(Part, frozen=True, tag=True):
    """A prompt as plain text; special tokens spelled out in it stay text."""

    text: str


class Tokens(Part, frozen=True, tag=True):
    """A prompt as token ids, shape (n,), not checked yet."""

    ids: tuple[int, ...]


Prompt = Chat | Text | Tokens


class Sampling(Part, frozen=True):
    """
    How the next token is chosen. None: as the model's own `generation_config.json` says.

    Attributes:
        temperature: 0 takes the likeliest token; above, logits are divided by it.
        top_p: smallest set of tokens whose probabilities reach this sum, 0 to 1; 0: the likeliest token.
        top_k: only so many likeliest tokens; 0: all.
        min_p: only tokens at least this likely, relative to the likeliest.
        seed: 0 to 2**64 - 1; the same seed gives the same answer, whatever else is in the batch.
        frequency_penalty: taken from a logit once for each time its token was generated.
        presence_penalty: taken once from each logit whose token was generated.
        repetition_penalty: divides positive and multiplies negative logits of the tokens in prompt
            and answer; 1: off.
        logit_bias: token ids and what is added to their logits.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


class Constraint(Part, frozen=True):
    """
    What the answer's text must be, by construction.

    Attributes:
        kind: what *source* is written in.
        source: a JSON Schema or, for `choice`, a list of texts, as JSON text; a regular expression; a
            grammar in Lark's notation; for `json_object` nothing.
        param: the request's field that asked for it, which is blamed where it can't be done.
    """

    kind: ConstraintKind
    source: str
    param: str


class Job(Part, frozen=True):
    """
    One answer asked for.

    Attributes:
        prompt: what comes before it.
        max_tokens: most tokens to generate; None: what the context has room for; 0: none, which makes
            sense with `echo` alone.
        min_tokens: the model may not end its turn before so many tokens, unless the answer's form ends it.
        stop: texts that end the answer and are not part of it.
        ignore_eos: go on past the model's own end of turn, as load generators ask for.
        top_logprobs: report each token's log-probability, and those of so many likeliest ones; None:
            report none.
        constraint: what the answer must be; where tools are called it binds the other answers.
        must_call: names of tools; the answer must call one of them, and only them. Empty: it need not.
        parallel_tool_calls: it may call several at once.
        echo: begin the answer with the prompt, its log-probabilities included where they are asked for.
    """

    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int | None = None
    constraint: Constraint | None = None
    must_call: tuple[str, ...] = ()
    parallel_tool_calls: bool = True
    echo: bool = False


class ModelCard(Part, frozen=True):
    """
    What a model says of itself, read from its own files.

    Attributes:
        id: name under which it is served, such as `mlx-community/gemma-3-4b-it-4bit`.
        family: architecture family, such as `gemma`.
        description: one readable sentence.
        context_length: longest prompt and answer together, in tokens.
        created: unix seconds at which it was loaded.
        quantization_bits: bits of a quantized weight; None: not quantized.
        has_chat_template: it can be asked in turns.
        knows_tools: its chat template takes tools.
        knows_calls: the notation of its own calls is known; where not, it calls where a request demands it.
        knows_thinking: its chat template keeps reasoning apart.
        notes: what an operator should know of it, each a clause that begins with "it" or "its".
        kind: what it makes of texts: answers, vectors, or how well one of them answers the other; a
            multimodal one answers, and takes images as well.
    """

    id: str
    family: str
    description: str
    context_length: int
    created: int
    quantization_bits: int | None = None
    has_chat_template: bool = True
    knows_tools: bool = False
    knows_thinking: bool = False
    notes: tuple[str, ...] = ()
    knows_calls: bool = True
    kind: ModelKind = "lm"


class Budget(Part, frozen=True):
    """
    The memory of a model that is loaded.

    Attributes:
        weights_bytes: what its weights take.
        kv_cache_bytes: most that the KV cache of all requests that generate at once may take; 0 for a model
            that generates nothing.
        context_length: longest prompt and answer together that this holds, in tokens.
        model_context_length: what it would be with any amount of memory.
        n_full_contexts: how many requests of `context_length` it holds at once.
    """

    weights_bytes: int
    kv_cache_bytes: int
    context_length: int
    model_context_length: int
    n_full_contexts: int

    def __str__(self) -> str:
        """Return it in words for a log."""
        if not self.kv_cache_bytes:
            return f"{self.weights_bytes / 1e6:,.0f} MB of weights"
        return (
            f"{self.weights_bytes / 1e6:,.0f} MB of weights, {self.kv_cache_bytes / 1e6:,.0f} MB for "
            f"the KV cache, which holds {self.n_full_contexts:,} requests of {self.context_length:,} "
            "tokens"
        )


class Load(Message, frozen=True):
    """
    Load this model; the first message an engine gets, and the only one of its kind.

    Its fields are the settings that an engine has to know, each by the name that it has in `Settings`.

    Attributes:
        model_path: folder or hub id; None: the model built in.
        model_id: name to serve it under; None: its folder's name or its hub id.
        context_length: cap in tokens; None: the model's own.
        max_concurrency: most requests that generate at once.
        warmup: run a real prefill and decode steps before `WarmedUp`.
        log_level: the least severe level at which the engine logs lines.
        allow_grammars: requests may bring grammars of their own.
        kv_bits: bits of a number in the KV cache, 4 or 8; None: not quantized.
        max_kv_size: most tokens that a layer's KV cache holds for one request; None: all.
        memory_mb: memory to plan with, weights included, in MB; None: what the machine has left.
        kv_memory_mb: memory for the KV cache of all rows, in MB; None: what the machine has left.
        prefix_cache_mb: memory for the KV caches of earlier prompts, in MB; 0: none.
        prefix_cache_path: folder that keeps the prefix cache over a restart; None: memory only.
        prefix_cache_disk_mb: most that this folder holds for one model, in MB.
        num_draft_tokens: most tokens to guess ahead per step; 0: none.
        draft_model: folder or hub id of a small model that guesses; None: only prompt lookup does.
        chat_template: file with the chat template to use; None: the model's own.
        adapter_path: folder or hub id of a LoRA adapter for the model; None: it is served as it is.
        trust_remote_code: code in the model's folder may be run.
        tool_parser: name of the notation of its calls; None: as its chat template shows.
        reasoning_parser: name of the notation of its thoughts; None: as its chat template shows.
        stall_timeout_s: seconds without progress after which it is killed.
        model_type: kind of the model, by its name in the settings; `auto`: as its files tell.
        max_image_pixels: most pixels of an image.
    """

    model_path: str | None
    context_length: int | None
    max_concurrency: int
    warmup: bool
    log_level: str
    allow_grammars: bool = False
    model_id: str | None = None
    kv_bits: int | None = None
    max_kv_size: int | None = None
    memory_mb: int | None = None
    kv_memory_mb: int | None = None
    prefix_cache_mb: int = 0
    prefix_cache_path: str | None = None
    prefix_cache_disk_mb: int = 4096
    num_draft_tokens: int = 0
    draft_model: str | None = None
    chat_template: str | None = None
    adapter_path: str | None = None
    trust_remote_code: bool = False
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    stall_timeout_s: float = 30.0
    model_type: str = "auto"
    max_image_pixels: int = 40_000_000


class Submit(Message, frozen=True):
    """Generate *job*; every answer carries *ticket*, a number never used twice."""

    ticket: int
    job: Job


class Cancel(Message, frozen=True):
    """Forget this ticket at the next step, wherever it stands."""

    ticket: int


class Tokenize(Message, frozen=True):
    """Say which tokens *prompt* is; nothing is generated. A `Cancel` ends this as well."""

    ticket: int
    prompt: Prompt


class Detokenize(Message, frozen=True):
    """Say which text these token ids are."""

    ticket: int
    ids: tuple[int, ...]


class Embed(Message, frozen=True):
    """
    Make a vector of each input. A `Cancel` ends this as well.

    Attributes:
        inputs: at least one; each is read by itself, whatever stands beside it.
        prompt_name: which of the model's own prompts to put before texts; None: the one that it has for
            texts of which nobody says what they are, if it has one.
        dimensions: how many numbers of a vector to keep, the first ones; None: all.
    """

    ticket: int
    inputs: tuple[Text | Tokens, ...]
    prompt_name: str | None = None
    dimensions: int | None = None


class Score(Message, frozen=True):
    """
    Say how well each document answers its query. A `Cancel` ends this as well.

    Attributes:
        queries: one for each document, or one for all.
        documents: at least one.
        params: the request's fields that hold the two, which are blamed where they are at fault.
    """

    ticket: int
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    params: tuple[str, str]


class Loaded(Message, frozen=True):
    """The weights are in memory; warm-up comes next."""

    card: ModelCard
    budget: Budget


class LoadFailed(Message, frozen=True):
    """
    The model cannot be served; the engine ends after this.

    Attributes:
        reason: for the operator.
        may_pass: another try may go well; if not, there is no sense in one.
    """

    reason: str
    may_pass: bool = False


class WarmedUp(Message, frozen=True):
    """
    Warm-up is over, or was not asked for.

    Attributes:
        error: why the model can't answer, if it can't.
        notes: what an operator should know of how it answers.
    """

    error: str | None = None
    notes: tuple[str, ...] = ()


class Accepted(Message, frozen=True):
    """What was asked for is sound and will run; its prompt, or all its inputs, have so many tokens."""

    ticket: int
    n_prompt_tokens: int


class Rejected(Message, frozen=True):
    """
    The job cannot run, or go on, by the caller's fault.

    Attributes:
        overflow: of a prompt that is too long, its tokens and how many it could have.
    """

    ticket: int
    message: str
    param: str | None
    code: str
    overflow: tuple[int, int] | None = None


class Cancelled(Message, frozen=True):
    """The ticket is forgotten, if there was any left of it."""

    ticket: int


class Failed(Message, frozen=True):
    """The job broke while it ran, by our fault; `is_numerical`: the model computed what is no number."""

    ticket: int
    is_numerical: bool = False


class Generation(Part, frozen=True):
    """
    What a language model's engine holds, and what it has counted since it serves.

    Attributes:
        kv_bytes: of the KV caches of all requests, as they count against the budget.
        kv_budget_bytes: what they may take together.
        prefix_bytes: of the prefix cache.
        prefix_budget_bytes: what that may take.
        n_prefix_entries: prompts that it knows.
        n_queried_tokens: tokens of prompts that it was asked for.
        n_hit_tokens: those of them that it had.
        n_proposed_tokens: tokens that were guessed ahead and checked.
        n_accepted_tokens: those of them that the model says as well.
        n_preemptions: times that a request had to wait again, since the KV cache was full.
    """

    kv_bytes: int
    kv_budget_bytes: int
    prefix_bytes: int
    prefix_budget_bytes: int
    n_prefix_entries: int
    n_queried_tokens: int
    n_hit_tokens: int
    n_proposed_tokens: int
    n_accepted_tokens: int
    n_preemptions: int


class Figures(Part, frozen=True):
    """
    What an engine that serves has measured of itself.

    Attributes:
        active_bytes: of all arrays now, weights included, as MLX counts.
        peak_bytes: of all arrays, at most.
        buffer_bytes: kept by MLX for reuse.
        n_steps: steps by what they took, shape (len(STEP_BUCKETS_S) + 1,): up to each bound, the last ones
            longer than all.
        steps_s: what they took together, in seconds.
        generation: more of a language model; None: the model writes no texts.
    """

    active_bytes: int
    peak_bytes: int
    buffer_bytes: int
    n_steps: tuple[int, ...]
    steps_s: float
    generation: Generation | None = None


class Heartbeat(Message, frozen=True):
    """
    What the engine has done until now, told by a thread that does nothing else.

    Attributes:
        n_turns: turns of its loop, and steps of warm-up.
        n_texts: prompts and questions that its text worker is done with.
        has_texts: it has more of them.
        n_grammars: forms of answers that its grammar worker is done with.
        has_grammars: it has more of them.
        memory_bytes: the most memory that the process has held.
        figures: as they were a moment ago; None: it does not serve yet.
    """

    n_turns: int
    n_texts: int
    has_texts: bool
    n_grammars: int
    has_grammars: bool
    memory_bytes: int
    figures: Figures | None = None


class Downloading(Message, frozen=True):
    """
    A model, its draft or its adapter is being downloaded, which may take any time.

    Attributes:
        is_over: it is there.
        done_bytes: on the disk already.
        total_bytes: of all its files; 0: not known yet.
        rate: bytes a second, lately.
    """

    is_over: bool
    done_bytes: int = 0
    total_bytes: int = 0
    rate: int = 0


class CacheFault(Message, frozen=True):
    """The prefix cache can't be kept on disk, or not any more; `reason` is for the operator."""

    reason: str


class Tokenized(Message, frozen=True):
    """The token ids of a prompt, and the text of each as its bytes, shapes (n,)."""

    ticket: int
    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]


class Detokenized(Message, frozen=True):
    """The text of token ids."""

    ticket: int
    text: str


class Embedded(Message, frozen=True):
    """
    The vectors of all inputs, in their order.

    Attributes:
        vectors: the numbers of each, all finite: floats of 32 bits, the lowest byte first.
        n_tokens: the inputs' tokens, those of a prompt and of signs such as [CLS] included.
    """

    ticket: int
    vectors: tuple[bytes, ...]
    n_tokens: int


class Scored(Message, frozen=True):
    """
    How well each document answers its query.

    Attributes:
        scores: of each document in its order, finite, the larger the better: from 0 to 1 by a model made
            for that, else the cosine of the angle between the two vectors.
        n_tokens: the tokens that were read; a query is read once for each document, or once for all.
    """

    ticket: int
    scores: tuple[float, ...]
    n_tokens: int


class Candidate(Part, frozen=True):
    """
    A token that could be chosen, or was.

    Attributes:
        piece: its text as bytes, which need not be whole characters.
        logprob: natural logarithm of the probability that the model itself gives it, finite; None:
            the prompt's first token, which nothing comes before.
    """

    id: int
    piece: bytes
    logprob: float | None


class TokenLogprob(Part, frozen=True):
    """A token of the answer and the likeliest ones in its place, likeliest first."""

    chosen: Candidate
    top: tuple[Candidate, ...]


class Spent(Part, frozen=True):
    """
    What an answer took, in seconds, in the engine.

    Attributes:
        n_cached_tokens: prompt tokens whose keys and values were there already.
        queue_s: from its submission until its prompt was begun.
        prefill_s: from there to its first token.
        decode_s: from there to its last.
    """

    n_cached_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float


class Delta(Part, frozen=True):
    """
    What one step added to one ticket.

    Attributes:
        text: new text, often one token's, may be empty while a character or a stop text is incomplete.
        n_completion_tokens: tokens generated so far, the end-of-turn token not counted.
        finish_reason: set on the ticket's last delta, which says nothing else.
        reasoning: new text of what the model thinks before it answers.
        n_reasoning_tokens: how many of the generated tokens were that.
        tool_calls: calls that are complete now; at the end, too, the one that the limit cut.
        logprobs: of the tokens whose text is out now; empty unless asked for.
        spent: set on the ticket's last delta.
        stop_text: the job's stop text that ended the answer; None: none did, or not yet.
    """

    ticket: int
    text: str
    n_completion_tokens: int
    finish_reason: FinishReason | None = None
    reasoning: str = ""
    n_reasoning_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    spent: Spent | None = None
    stop_text: str | None = None


class Step(Message, frozen=True):
    """The deltas of one batch step; empty after a step that only prefilled prompts: a sign of life."""

    deltas: tuple[Delta, ...]


ToEngine = Load | Submit | Cancel | Tokenize | Detokenize | Embed | Score
FromEngine = (
    Loaded
    | LoadFailed
    | WarmedUp
    | Accepted
    | Rejected
    | Cancelled
    | Failed
    | Step
    | Heartbeat
    | Downloading
    | CacheFault
    | Tokenized
    | Detokenized
    | Embedded
    | Scored
)

_encoder = msgspec.msgpack.Encoder()
to_engine_decoder = msgspec.msgpack.Decoder(ToEngine)
from_engine_decoder = msgspec.msgpack.Decoder(FromEngine)


def frame(message: ToEngine | FromEngine) -> bytes:
    """Return *message* as bytes on the wire, its length ahead of it."""
    body = _encoder.encode(message)
    return struct.pack(">I", len(body)) + body


class FrameSplitter:
    """Cuts a byte stream back into frames, however the socket chopped it."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take *data* and return the body of each frame that is now complete.

        Raises:
            ValueError: a frame claims to be over MAX_FRAME_BYTES; the stream is not ours.
        """
        self._pending += data
        bodies = []
        while len(self._pending) >= 4:
            (n_bytes,) = struct.unpack_from(">I", self._pending)
            if n_bytes > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {n_bytes} bytes")
            if len(self._pending) < 4 + n_bytes:
                break
            bodies.append(bytes(self._pending[4 : 4 + n_bytes]))
            del self._pending[: 4 + n_bytes]
        return bodies
