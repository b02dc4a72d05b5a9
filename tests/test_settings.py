"""Every option by flag, by environment and by default, and every refusal in words."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.settings import OPTIONS, Settings, from_arguments, from_environment, is_loopback

ROOT = Path(__file__).parent.parent

# field, variable, flag, default, a value in the environment, one in a flag, and what these become
TABLE: list[tuple[str, str, str, Any, str, str, Any, Any]] = [
    ("model_path", "MODEL_PATH", "--model-path", None, "a/b", "c/d", "a/b", "c/d"),
    ("model_id", "MODEL_ID", "--model-id", None, "a/b", "c", "a/b", "c"),
    ("model_type", "MODEL_TYPE", "--model-type", "auto", "lm", "embeddings", "lm", "embeddings"),
    ("context_length", "CONTEXT_LENGTH", "--context-length", None, "16", "4096", 16, 4096),
    ("warmup", "MLX_WARMUP", "--mlx-warmup", True, "false", "true", False, True),
    (
        "model_aliases",
        "MODEL_ALIASES",
        "--model-alias",
        (),
        "a=b/c, d=e",
        "x=y=z",
        (("a", "b/c"), ("d", "e")),
        (("x", "y=z"),),
    ),
    ("any_model_name", "ANY_MODEL_NAME", "--any-model-name", False, "true", "false", True, False),
    ("models_file", "MODELS_FILE", "--models", None, "a.toml", "b.toml", "a.toml", "b.toml"),
    ("models_dir", "MODELS_DIR", "--models-dir", None, "/a", "b", "/a", "b"),
    ("models_memory_mb", "MODELS_MEMORY_MB", "--models-memory-mb", None, "1", "2", 1, 2),
    (
        "model_idle_timeout_s",
        "MODEL_IDLE_TIMEOUT",
        "--model-idle-timeout",
        None,
        "0.5",
        "86400",
        0.5,
        86400.0,
    ),
    ("host", "SERVER_HOST", "--host", "127.0.0.1", "0.0.0.0", "::1", "0.0.0.0", "::1"),
    ("port", "SERVER_PORT", "--port", 8000, "0", "65535", 0, 65535),
    ("max_concurrency", "MAX_CONCURRENCY", "--max-concurrency", 8, "1", "1024", 1, 1024),
    ("queue_timeout_s", "QUEUE_TIMEOUT", "--queue-timeout", 300.0, "0.5", "86400", 0.5, 86400.0),
    ("queue_size", "QUEUE_SIZE", "--queue-size", 100, "0", "100000", 0, 100_000),
    ("log_level", "LOG_LEVEL", "--log-level", "INFO", "debug", "ERROR", "DEBUG", "ERROR"),
    ("log_format", "LOG_FORMAT", "--log-format", "text", "JSON", "text", "json", "text"),
    ("log_probes", "LOG_PROBES", "--log-probes", True, "false", "true", False, True),
    (
        "otlp_endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "--otlp-endpoint",
        None,
        "http://127.0.0.1:4318",
        "https://otel.example/x",
        "http://127.0.0.1:4318",
        "https://otel.example/x",
    ),
    ("api_key", "API_KEY", "--api-key", None, "k1", "k2", "k1", "k2"),
    ("api_keys_file", "API_KEYS_FILE", "--api-keys-file", None, "/a", "b", "/a", "b"),
    ("admin_key", "ADMIN_KEY", "--admin-key", None, "k1", "k2", "k1", "k2"),
    (
        "allowed_origins",
        "ALLOWED_ORIGINS",
        "--allowed-origin",
        (),
        "https://A.example,http://localhost:3000",
        "*",
        ("https://a.example", "http://localhost:3000"),
        ("*",),
    ),
    (
        "allowed_hosts",
        "ALLOWED_HOSTS",
        "--allowed-host",
        (),
        "mac.example, 10.0.0.7",
        "*",
        ("mac.example", "10.0.0.7"),
        ("*",),
    ),
    (
        "image_hosts",
        "IMAGE_HOSTS",
        "--image-host",
        (),
        "a.example, B.example:81",
        "[::1]:80",
        ("a.example", "b.example:81"),
        ("[::1]:80",),
    ),
    (
        "max_image_pixels",
        "MAX_IMAGE_PIXELS",
        "--max-image-pixels",
        40_000_000,
        "4096",
        "9000000",
        4096,
        9_000_000,
    ),
    ("allow_grammars", "ALLOW_GRAMMARS", "--allow-grammars", False, "true", "false", True, False),
    ("kv_bits", "KV_BITS", "--kv-bits", None, "4", "8", 4, 8),
    ("max_kv_size", "MAX_KV_SIZE", "--max-kv-size", None, "16", "4096", 16, 4096),
    ("memory_mb", "MEMORY_MB", "--memory-mb", None, "64", "9000", 64, 9000),
    ("kv_memory_mb", "KV_MEMORY_MB", "--kv-memory-mb", None, "500", "100", 500, 100),
    ("prefix_cache_mb", "PREFIX_CACHE_MB", "--prefix-cache-mb", 1024, "0", "7", 0, 7),
    ("prefix_cache_path", "PREFIX_CACHE_PATH", "--prefix-cache-path", None, "/a", "b", "/a", "b"),
    (
        "prefix_cache_disk_mb",
        "PREFIX_CACHE_DISK_MB",
        "--prefix-cache-disk-mb",
        4096,
        "1",
        "2",
        1,
        2,
    ),
    ("num_draft_tokens", "NUM_DRAFT_TOKENS", "--num-draft-tokens", 8, "0", "4", 0, 4),
    ("draft_model", "DRAFT_MODEL", "--draft-model", None, "a/b", "c/d", "a/b", "c/d"),
    ("chat_template", "CHAT_TEMPLATE", "--chat-template", None, "/a", "b", "/a", "b"),
    ("adapter_path", "ADAPTER_PATH", "--adapter-path", None, "a/b", "c/d", "a/b", "c/d"),
    (
        "trust_remote_code",
        "TRUST_REMOTE_CODE",
        "--trust-remote-code",
        False,
        "true",
        "false",
        True,
        False,
    ),
    ("tool_parser", "TOOL_PARSER", "--tool-parser", None, "llama", "hermes", "llama", "hermes"),
    (
        "reasoning_parser",
        "REASONING_PARSER",
        "--reasoning-parser",
        None,
        "think",
        "mistral",
        "think",
        "mistral",
    ),
    ("stall_timeout_s", "STALL_TIMEOUT", "--stall-timeout", 30.0, "1", "3600", 1.0, 3600.0),
    ("load_timeout_s", "LOAD_TIMEOUT", "--load-timeout", 600.0, "1", "86400", 1.0, 86400.0),
    ("engine_memory_mb", "ENGINE_MEMORY_MB", "--engine-memory-mb", None, "64", "9000", 64, 9000),
    ("drain_timeout_s", "DRAIN_TIMEOUT", "--drain-timeout", 2.0, "0", "3600", 0.0, 3600.0),
]
NAMES = [row[0] for row in TABLE]

BAD = [
    ("--otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318", ["http://HOST:PORT"]),
    ("--otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", ["http://HOST:PORT"]),
    ("--context-length", "CONTEXT_LENGTH", "15", ["x>=16"]),
    ("--context-length", "CONTEXT_LENGTH", "many", ["x>=16"]),
    ("--mlx-warmup", "MLX_WARMUP", "maybe", ["true", "false"]),
    ("--port", "SERVER_PORT", "65536", ["0<=x<=65535"]),
    ("--port", "SERVER_PORT", "-1", ["0<=x<=65535"]),
    ("--port", "SERVER_PORT", "http", ["0<=x<=65535"]),
    ("--max-concurrency", "MAX_CONCURRENCY", "0", ["1<=x<=1024"]),
    ("--max-concurrency", "MAX_CONCURRENCY", "1025", ["1<=x<=1024"]),
    ("--max-concurrency", "MAX_CONCURRENCY", "1.5", ["1<=x<=1024"]),
    ("--queue-timeout", "QUEUE_TIMEOUT", "0", ["0<x<=86400"]),
    ("--queue-timeout", "QUEUE_TIMEOUT", "soon", ["0<x<=86400"]),
    ("--queue-timeout", "QUEUE_TIMEOUT", "nan", ["0<x<=86400"]),
    ("--queue-timeout", "QUEUE_TIMEOUT", "inf", ["0<x<=86400"]),
    ("--queue-size", "QUEUE_SIZE", "-1", ["0<=x<=100000"]),
    ("--queue-size", "QUEUE_SIZE", "100001", ["0<=x<=100000"]),
    ("--log-level", "LOG_LEVEL", "loud", ["debug", "info", "warning", "error", "critical"]),
    ("--kv-bits", "KV_BITS", "6", ["4", "8"]),
    ("--tool-parser", "TOOL_PARSER", "gpt", ["harmony", "hermes", "llama"]),
    ("--reasoning-parser", "REASONING_PARSER", "qwen", ["mistral", "think"]),
    ("--kv-bits", "KV_BITS", "8.0", ["4", "8"]),
    ("--max-kv-size", "MAX_KV_SIZE", "15", ["x>=16"]),
    ("--model-type", "MODEL_TYPE", "video", ["auto", "lm", "multimodal", "embeddings", "whisper"]),
    ("--model-alias", "MODEL_ALIASES", "gpt-4", ["NAME=ID"]),
    ("--model-alias", "MODEL_ALIASES", "=gemma", ["NAME=ID"]),
    ("--model-alias", "MODEL_ALIASES", "gpt-4=", ["NAME=ID"]),
    ("--any-model-name", "ANY_MODEL_NAME", "gemma", ["true", "false"]),
    ("--allowed-origin", "ALLOWED_ORIGINS", "localhost", ["scheme://host"]),
    ("--allowed-origin", "ALLOWED_ORIGINS", "http://a.example/", ["scheme://host"]),
    ("--allowed-host", "ALLOWED_HOSTS", "http://mac.example", ["name or an address"]),
    ("--image-host", "IMAGE_HOSTS", "http://a.example", ["HOST or HOST:PORT"]),
    ("--image-host", "IMAGE_HOSTS", "*", ["HOST or HOST:PORT"]),
    ("--max-image-pixels", "MAX_IMAGE_PIXELS", "4095", ["x>=4096"]),
    ("--stall-timeout", "STALL_TIMEOUT", "0", ["1<=x<=3600"]),
    ("--load-timeout", "LOAD_TIMEOUT", "soon", ["1<=x<=86400"]),
    ("--engine-memory-mb", "ENGINE_MEMORY_MB", "63", ["x>=64"]),
    ("--drain-timeout", "DRAIN_TIMEOUT", "-1", ["0<=x<=3600"]),
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours is set, whatever the machine has."""
    for option in OPTIONS:
        monkeypatch.delenv(option.metadata["env"], raising=False)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed when *arguments* stopped the start."""
    with pytest.raises(SystemExit) as stopped:
        from_arguments(arguments)
    assert stopped.value.code not in {0, None}
    return capsys.readouterr().err


def test_table_has_every_option() -> None:
    """The table above is complete: no option without a test of its three sources."""
    expected = [(o.name, o.metadata["env"], o.metadata["flag"]) for o in OPTIONS]

    assert expected == [row[:3] for row in TABLE]


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_option_when_nothing_is_set(row: tuple[Any, ...]) -> None:
    """Without flag and variable the documented default holds, for the bare class as well."""
    name, default = row[0], row[3]

    assert default == getattr(from_arguments([]), name)
    assert default == getattr(Settings(), name)


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_option_when_the_environment_sets_it(
    row: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment beats the default, and no other option moves."""
    name, variable, value, expected = row[0], row[1], row[4], row[6]
    monkeypatch.setenv(variable, value)

    assert dataclasses.replace(Settings(), **{name: expected}) == from_environment()


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_option_when_a_flag_sets_it_too(
    row: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag beats the environment, and no other option moves."""
    name, variable, flag, _, in_environment, in_flag, _, expected = row
    monkeypatch.setenv(variable, in_environment)

    assert dataclasses.replace(Settings(), **{name: expected}) == from_arguments([flag, in_flag])


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_option_when_its_variable_is_empty(
    row: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as unset, as compose files write it; but an empty key is no key at all."""
    monkeypatch.setenv(row[1], "")
    if row[1] in {"API_KEY", "ADMIN_KEY"}:
        with pytest.raises(SystemExit):
            from_environment()
        return

    assert Settings() == from_environment()


@pytest.mark.parametrize("value", ["true", "1", "yes", "on", "TRUE"])
def test_warmup_when_switched_on(value: str) -> None:
    """The usual words for yes are understood in any case."""
    assert from_arguments(["--mlx-warmup", value]).warmup is True


@pytest.mark.parametrize("value", ["false", "0", "no", "off", "False"])
def test_warmup_when_switched_off(value: str) -> None:
    """The usual words for no are understood in any case."""
    assert from_arguments(["--mlx-warmup", value]).warmup is False


@pytest.mark.parametrize(("flag", "variable", "value", "allowed"), BAD)
def test_bad_value_in_a_flag(
    flag: str, variable: str, value: str, allowed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The start stops with the option's name, the value and what is allowed."""
    printed = refusal([flag, value], capsys)

    assert [flag, f"'{value}'", *allowed] == [
        word for word in [flag, f"'{value}'", *allowed] if word in printed
    ]


@pytest.mark.parametrize(("flag", "variable", "value", "allowed"), BAD)
def test_bad_value_in_the_environment(
    flag: str,
    variable: str,
    value: str,
    allowed: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same, and the variable is named, since nobody typed the flag."""
    monkeypatch.setenv(variable, value)
    printed = refusal([], capsys)

    assert [variable, f"'{value}'", *allowed] == [
        word for word in [variable, f"'{value}'", *allowed] if word in printed
    ]


@pytest.mark.parametrize("kind", ["whisper"])
def test_model_type_when_known_but_not_built(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A type that is planned stops the start with a line that says so and names what is served."""
    printed = refusal(["--model-type", kind], capsys)

    assert (
        f"'{kind}' is not built yet; this version serves: auto, lm, multimodal, embeddings."
        in printed
    )
    assert "--model-type" in printed


@pytest.mark.parametrize("arguments", [["--bogus", "1"], ["stray"], ["--port"]])
def test_start_when_the_command_line_is_wrong(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown flag, a stray word, or a flag without a value stops the start and is named."""
    assert arguments[0] in refusal(arguments, capsys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_host_when_it_is_loopback(host: str) -> None:
    """Addresses that only this machine reaches are loopback."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com", "127.example.com", "1127.0.0.1"]
)
def test_host_when_it_is_not_loopback(host: str) -> None:
    """Everything else is not, a name that merely looks like a loopback address included."""
    assert not is_loopback(host)


def test_settings_when_written_to() -> None:
    """Settings are read once and never change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]  # that it is forbidden is the point


def run_service(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_help_names_every_flag_and_variable() -> None:
    """`--help` of the real command line has each flag, each variable, and who beats whom."""
    answer = run_service("--help")
    expected = [word for o in OPTIONS for word in (o.metadata["flag"], o.metadata["env"])]

    assert 0 == answer.returncode
    assert expected == [word for word in expected if word in answer.stdout]
    assert "A flag beats the environment, the environment beats the default." in answer.stdout


def test_service_when_a_value_is_bad() -> None:
    """The real command line refuses before it binds anything, without a traceback."""
    answer = run_service("--port", "70000")

    assert 2 == answer.returncode
    assert "'--port'" in answer.stderr
    assert "Traceback" not in answer.stderr
