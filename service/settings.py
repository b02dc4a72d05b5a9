"""
Every option once.

The fields of `Settings` are the one table that the environment, the flags, `--help` and the README's
table are made from. A flag beats the environment, the environment beats the default.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

MODEL_TYPES = ("auto", "lm", "multimodal", "embeddings", "whisper")
BUILT_MODEL_TYPES = ("auto", "lm", "multimodal", "embeddings")
BOOT_FAILURE_STATUS = 3
# Notations of calls and of thoughts by name; the rows are in service/engine/text/notations.py.
TOOL_PARSERS = (
    "harmony", "cohere", "command_r", "deepseek_v4", "deepseek_v32", "deepseek_v3", "deepseek_v31",
    "kimi_k2", "kimi_k3", "minimax_m3", "minimax_m2", "gemma4", "function_gemma", "longcat", "glm47",
    "pythonic", "seed_oss", "qwen3_coder", "minicpm5", "mistral", "mistral_v3", "muse_spark", "nemotron",
    "jamba", "apertus", "gigachat", "gigachat_v3", "phi4_mini", "granite",
    "hy3", "solar_open", "functionary_v32", "functionary_v31", "hermes", "llama",
)  # fmt: skip
REASONING_PARSERS = (
    "hy3", "seed_oss", "mistral", "cohere", "gemma4", "kimi_k3", "granite", "longcat", "minimax_m3",
    "think_start", "think",
)  # fmt: skip
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Whole(click.IntRange):
    """A whole number whose refusal always names the range, also for what is no number at all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with the value and the range."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)


class Seconds(click.FloatRange):
    """A span of time whose refusal always names the range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the seconds; fails with the value and the range."""
        try:
            found = super().convert(value, param, ctx)
        except click.BadParameter:
            found = math.nan
        if math.isnan(found):
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)
        return found


class Key(click.types.StringParamType):
    """A secret that cannot be empty by accident, nor begin or end in a space that a header would lose."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the key; fails without repeating it."""
        if not value or value != str(value).strip():
            self.fail(
                "a key is not empty and has no space around it; unset it for none.", param, ctx
            )
        return super().convert(value, param, ctx)


class Url(click.ParamType[str]):
    """The address of another server."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address; fails with the forms that one has."""
        if not re.fullmatch(r"https?://[^/?#@\s]+[^?#\s]*", str(value)):
            self.fail(f"{value!r} is not http://HOST:PORT or https://HOST.", param, ctx)
        return str(value)


class Listed(click.ParamType[Any]):
    """One of several values, which a variable takes with commas or spaces between."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the values in a variable."""
        return re.split(r"[\s,]+", rv.strip(", \t\n"))


class Alias(Listed):
    """A further name for a model, NAME=ID."""

    name = "NAME=ID"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the name and the id; fails if one is missing."""
        name, _, model_id = str(value).partition("=")
        if not name or not model_id:
            self.fail(f"{value!r} is not NAME=ID.", param, ctx)
        return name, model_id


class Origin(Listed):
    """Where a web page comes from, as browsers write it, or `*` for anywhere."""

    name = "ORIGIN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the origin in lower case; fails with the forms that one has."""
        origin = str(value).lower()
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
            self.fail(f"{value!r} is not scheme://host, scheme://host:port or *.", param, ctx)
        return origin


class Host(Listed):
    """A name or an address of this server, without a port, or `*` for any."""

    name = "HOST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name in lower case; fails with the forms that one has."""
        host = str(value).lower().rstrip(".")
        if not re.fullmatch(r"\*|[a-z0-9_.-]+|[0-9a-f:]+", host):
            self.fail(f"{value!r} is not a name or an address without a port, nor *.", param, ctx)
        return host


class ImageHost(Listed):
    """Whom to ask for images: a name or an address, with a port where it is no usual one."""

    name = "HOST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it in lower case; fails with the forms that it has."""
        host = str(value).lower()
        if not re.fullmatch(r"([a-z0-9_.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", host):
            self.fail(f"{value!r} is not HOST or HOST:PORT.", param, ctx)
        return host


class Option(click.Option):
    """An option whose variable counts even when it is set to nothing, if nothing would be dangerous."""

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Return the variable's value; an empty key is a value, and a bad one."""
        if isinstance(self.type, Key) and os.environ.get(str(self.envvar)) == "":
            return ""
        return super().value_from_envvar(ctx)


class ModelType(click.Choice[str]):
    """A choice that also refuses, in words of its own, what is known but not built yet."""

    def __init__(self) -> None:
        super().__init__(MODEL_TYPES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the type; fails with the types that are built if it is not one of them."""
        chosen = super().convert(value, param, ctx)
        if chosen not in BUILT_MODEL_TYPES:
            built = ", ".join(BUILT_MODEL_TYPES)
            self.fail(f"{chosen!r} is not built yet; this version serves: {built}.", param, ctx)
        return chosen


def _option(env: str, flag: str, kind: click.ParamType[Any], default: Any, help_: str) -> Any:
    """Return the dataclass field for one option; *kind* carries type and range, a key is never shown."""
    metadata = {"env": env, "flag": flag, "kind": kind, "help": help_}
    return dataclasses.field(default=default, metadata=metadata, repr=not isinstance(kind, Key))


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """How the server was started; times in seconds, lengths in tokens."""

    model_path: str | None = _option(
        "MODEL_PATH", "--model-path", click.STRING, None,
        "Folder with an MLX model, or a model of the hub: mlx-community/NAME or hf:OWNER/NAME. None: the "
        "small model built in.",
    )  # fmt: skip
    model_id: str | None = _option(
        "MODEL_ID", "--model-id", click.STRING, None,
        "Name to serve the model under. None: its folder's name or its hub id.",
    )  # fmt: skip
    model_type: str = _option(
        "MODEL_TYPE", "--model-type", ModelType(), "auto",
        "Kind of the model: lm answers, multimodal takes images as well, embeddings makes vectors of texts "
        "or ranks them. auto: what its own files tell.",
    )  # fmt: skip
    context_length: int | None = _option(
        "CONTEXT_LENGTH", "--context-length", Whole(min=16), None,
        "Longest prompt and answer together, in tokens. None: what the model was made for.",
    )  # fmt: skip
    warmup: bool = _option(
        "MLX_WARMUP", "--mlx-warmup", click.BOOL, True,
        "Run a real prefill and decode steps before the model counts as warmed up.",
    )  # fmt: skip
    model_aliases: tuple[tuple[str, str], ...] = _option(
        "MODEL_ALIASES", "--model-alias", Alias(), (),
        "Further names for models, each NAME=ID: as a flag several times, as a variable with commas between.",
    )  # fmt: skip
    any_model_name: bool = _option(
        "ANY_MODEL_NAME", "--any-model-name", click.BOOL, False,
        "Answer with the only model that is served, whatever model a request names.",
    )  # fmt: skip
    models_file: str | None = _option(
        "MODELS_FILE", "--models", click.STRING, None,
        "File that names several models to serve, in TOML; the first is loaded at the start, each other when "
        "a request asks for it. None: one model.",
    )  # fmt: skip
    models_dir: str | None = _option(
        "MODELS_DIR", "--models-dir", click.STRING, None,
        "Folder whose models are all served, each under its folder's name. None: one model.",
    )  # fmt: skip
    models_memory_mb: int | None = _option(
        "MODELS_MEMORY_MB", "--models-memory-mb", Whole(min=1), None,
        "Most memory that the engines of several models hold together, in MB; the model unused for longest "
        "makes room. None: two thirds of the machine's.",
    )  # fmt: skip
    model_idle_timeout_s: float | None = _option(
        "MODEL_IDLE_TIMEOUT", "--model-idle-timeout", Seconds(0, 86400, min_open=True), None,
        "Seconds without a request after which a model that was loaded for a request is unloaded. None: only "
        "when another needs its room.",
    )  # fmt: skip
    host: str = _option(
        "SERVER_HOST", "--host", click.STRING, "127.0.0.1",
        "Address to listen on. Under gunicorn, its own options decide.",
    )  # fmt: skip
    port: int = _option(
        "SERVER_PORT", "--port", Whole(0, 65535), 8000,
        "Port to listen on. Under gunicorn, its own options decide.",
    )  # fmt: skip
    max_concurrency: int = _option(
        "MAX_CONCURRENCY", "--max-concurrency", Whole(1, 1024), 8,
        "Most requests that generate at once; further requests wait in the queue.",
    )  # fmt: skip
    queue_timeout_s: float = _option(
        "QUEUE_TIMEOUT", "--queue-timeout", Seconds(0, 86400, min_open=True), 300.0,
        "Longest that a request waits in the queue, in seconds; then it is refused with 503.",
    )  # fmt: skip
    queue_size: int = _option(
        "QUEUE_SIZE", "--queue-size", Whole(0, 100_000), 100,
        "Most requests that wait in the queue; a further request is refused with 429.",
    )  # fmt: skip
    log_level: str = _option(
        "LOG_LEVEL", "--log-level", click.Choice(LOG_LEVELS, case_sensitive=False), "INFO",
        "Least severe level at which lines are logged.",
    )  # fmt: skip
    log_format: str = _option(
        "LOG_FORMAT", "--log-format", click.Choice(("text", "json"), case_sensitive=False), "text",
        "Form of the log's lines: text, or a JSON object each.",
    )  # fmt: skip
    log_probes: bool = _option(
        "LOG_PROBES", "--log-probes", click.BOOL, True,
        "Log requests for /health, /livez, /readyz, /metrics and /status as well.",
    )  # fmt: skip
    otlp_endpoint: str | None = _option(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "--otlp-endpoint", Url(), None,
        "Address of an OpenTelemetry collector that gets a trace of each request, by OTLP over HTTP. None: "
        "no traces.",
    )  # fmt: skip
    api_key: str | None = _option(
        "API_KEY", "--api-key", Key(), None,
        "Key that all requests but probes must carry, as a bearer token or as x-api-key. None: no key.",
    )  # fmt: skip
    api_keys_file: str | None = _option(
        "API_KEYS_FILE", "--api-keys-file", click.STRING, None,
        "File of keys that open the server as API_KEY does, each with a name and limits, in TOML; "
        "`tier3a key NAME` makes one. None: no further keys.",
    )  # fmt: skip
    admin_key: str | None = _option(
        "ADMIN_KEY", "--admin-key", Key(), None,
        "Key that requests below /admin must carry. None: API_KEY; without either, only this machine is let "
        "in there.",
    )  # fmt: skip
    allowed_origins: tuple[str, ...] = _option(
        "ALLOWED_ORIGINS", "--allowed-origin", Origin(), (),
        "Origins of web pages that may read answers (CORS), such as https://chat.example, or * for all: as a "
        "flag several times, as a variable with commas between. None: no page may.",
    )  # fmt: skip
    allowed_hosts: tuple[str, ...] = _option(
        "ALLOWED_HOSTS", "--allowed-host", Host(), (),
        "Further names that requests may give this server in their Host header, or * for any: as a flag "
        "several times, as a variable with commas between. None: on a loopback address this machine's own, "
        "elsewhere any.",
    )  # fmt: skip
    image_hosts: tuple[str, ...] = _option(
        "IMAGE_HOSTS", "--image-host", ImageHost(), (),
        "Hosts that may be asked for images, each HOST or HOST:PORT: as a flag several times, as a variable "
        "with commas between. None: images come with the request.",
    )  # fmt: skip
    max_image_pixels: int = _option(
        "MAX_IMAGE_PIXELS", "--max-image-pixels", Whole(min=4096), 40_000_000,
        "Most pixels of an image.",
    )  # fmt: skip
    allow_grammars: bool = _option(
        "ALLOW_GRAMMARS", "--allow-grammars", click.BOOL, False,
        "Let requests bring grammars of their own; some grammars block the engine until it is restarted.",
    )  # fmt: skip
    kv_bits: int | None = _option(
        "KV_BITS", "--kv-bits", click.Choice((4, 8)), None,
        "Bits of each number in the KV cache, 4 or 8; fewer take less memory. None: not quantized.",
    )  # fmt: skip
    max_kv_size: int | None = _option(
        "MAX_KV_SIZE", "--max-kv-size", Whole(min=16), None,
        "Most tokens that a layer's KV cache holds for one request; it forgets the oldest. None: all tokens.",
    )  # fmt: skip
    memory_mb: int | None = _option(
        "MEMORY_MB", "--memory-mb", Whole(min=64), None,
        "Memory that a model plans with, in MB: for its weights, its KV cache and its prefix cache. None: "
        "what the machine has left.",
    )  # fmt: skip
    kv_memory_mb: int | None = _option(
        "KV_MEMORY_MB", "--kv-memory-mb", Whole(min=1), None,
        "Memory for the KV cache of all requests that generate at once, in MB; a request that does not fit "
        "waits. None: what the machine has left.",
    )  # fmt: skip
    prefix_cache_mb: int = _option(
        "PREFIX_CACHE_MB", "--prefix-cache-mb", Whole(min=0), 1024,
        "Memory for the KV caches of earlier prompts, in MB; prompts that begin alike reuse them. 0: none.",
    )  # fmt: skip
    prefix_cache_path: str | None = _option(
        "PREFIX_CACHE_PATH", "--prefix-cache-path", click.STRING, None,
        "Folder that keeps the prefix cache over a restart; it holds what users wrote. None: memory only.",
    )  # fmt: skip
    prefix_cache_disk_mb: int = _option(
        "PREFIX_CACHE_DISK_MB", "--prefix-cache-disk-mb", Whole(min=1), 4096,
        "Most that PREFIX_CACHE_PATH holds for one model, in MB; the oldest files are deleted first.",
    )  # fmt: skip
    num_draft_tokens: int = _option(
        "NUM_DRAFT_TOKENS", "--num-draft-tokens", Whole(0, 64), 8,
        "Most tokens to guess ahead per step (speculative decoding by prompt lookup). 0: none.",
    )  # fmt: skip
    draft_model: str | None = _option(
        "DRAFT_MODEL", "--draft-model", click.STRING, None,
        "Folder or hub id of a small MLX model with the same tokens; guesses where prompt lookup can't.",
    )  # fmt: skip
    chat_template: str | None = _option(
        "CHAT_TEMPLATE", "--chat-template", click.STRING, None,
        "File with the chat template to use, in Jinja. None: the model's own.",
    )  # fmt: skip
    adapter_path: str | None = _option(
        "ADAPTER_PATH", "--adapter-path", click.STRING, None,
        "Folder or hub id of a LoRA adapter for the model, as mlx_lm.lora makes it. None: no adapter.",
    )  # fmt: skip
    trust_remote_code: bool = _option(
        "TRUST_REMOTE_CODE", "--trust-remote-code", click.BOOL, False,
        "Run the code that a model brings in its own folder; without, a model that needs it is not served.",
    )  # fmt: skip
    tool_parser: str | None = _option(
        "TOOL_PARSER", "--tool-parser", click.Choice(TOOL_PARSERS), None,
        "Notation in which the model writes tool calls. None: the one that its chat template shows.",
    )  # fmt: skip
    reasoning_parser: str | None = _option(
        "REASONING_PARSER", "--reasoning-parser", click.Choice(REASONING_PARSERS), None,
        "Notation in which the model marks its thoughts. None: the one that its chat template shows.",
    )  # fmt: skip
    stall_timeout_s: float = _option(
        "STALL_TIMEOUT", "--stall-timeout", Seconds(1, 3600), 30.0,
        "Seconds without progress, with work to do, after which the engine is killed and started again.",
    )  # fmt: skip
    load_timeout_s: float = _option(
        "LOAD_TIMEOUT", "--load-timeout", Seconds(1, 86400), 600.0,
        "Longest that loading a model takes, in seconds, a download not counted; then it has failed.",
    )  # fmt: skip
    engine_memory_mb: int | None = _option(
        "ENGINE_MEMORY_MB", "--engine-memory-mb", Whole(min=64), None,
        "Most memory that the engine process holds, in MB; beyond it, it is started again. None: no limit.",
    )  # fmt: skip
    drain_timeout_s: float = _option(
        "DRAIN_TIMEOUT", "--drain-timeout", Seconds(0, 3600), 2.0,
        "Seconds that running answers get to finish when the server is asked to end.",
    )  # fmt: skip


def needs_key(settings: Settings) -> bool:
    """Tell whether requests have to bear a key."""
    return settings.api_key is not None or settings.api_keys_file is not None


def is_loopback(host: str) -> bool:
    """Tell whether *host*, an address to listen on, can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


OPTIONS = dataclasses.fields(Settings)


def command(run: Callable[[Settings], None]) -> click.Command:
    """Return the command line over all options; it ends by calling *run* with the settings."""

    def invoke(**values: Any) -> None:
        run(Settings(**values))

    params: list[click.Parameter] = [
        Option(
            [option.metadata["flag"], option.name],
            type=option.metadata["kind"],
            default=option.default,
            envvar=option.metadata["env"],
            show_envvar=True,
            show_default=option.default not in (None, ()),
            multiple=option.default == (),
            help=option.metadata["help"],
        )
        for option in OPTIONS
    ]
    return click.Command(
        "service",
        params=params,
        callback=invoke,
        help="Serve a local MLX language model through an OpenAI-compatible interface.",
        epilog="A flag beats the environment, the environment beats the default.",
    )


def from_arguments(arguments: Sequence[str]) -> Settings:
    """
    Read *arguments*, then the environment, then the defaults.

    Raises:
        SystemExit: a value is bad; its name, the value and what is allowed were printed.
    """
    found: list[Settings] = []
    try:
        command(found.append).main(list(arguments), prog_name="service", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    if not found:  # --help was asked for and printed
        raise SystemExit(0)
    return found[0]


def from_environment() -> Settings:
    """
    Read the environment alone, as uvicorn and gunicorn start the app.

    Raises:
        SystemExit: a value is bad; the status is the one at which both give up instead of retrying.
    """
    try:
        return from_arguments(())
    except SystemExit:
        raise SystemExit(BOOT_FAILURE_STATUS) from None
