"""Several models by a file and by a folder: what each comes to, and where a fault stands."""

import json
from pathlib import Path

import pytest

from service.models_file import MB, SETTING_OF_KEY, BadModels, memory_bytes, plans
from service.settings import Settings

CONFIG = {"model_type": "llama", "max_position_embeddings": 4096}
MODEL = '[[model]]\nid = "{id}"\npath = "./{id}"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three models, each with weights of 10 MB as far as a file system tells."""
    for name in ("chat", "coder", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))
        with (tmp_path / name / "model.safetensors").open("wb") as weights:
            weights.truncate(10 * MB)
    (tmp_path / "notes").mkdir()
    return tmp_path


def by_file(folder: Path, text: str, **others: object) -> Settings:
    """Return settings with a file that holds *text*."""
    path = folder / "models.toml"
    path.write_text(text)
    return Settings(models_file=str(path), models_memory_mb=800, **others)  # type: ignore[arg-type]


def test_first_model_is_the_default(folder: Path) -> None:
    """It is loaded at the start and stays; each other comes when it is asked for."""
    text = MODEL.format(id="chat") + MODEL.format(id="coder") + "pin = true\nidle_timeout = 60\n"
    chat, coder = plans(by_file(folder, text))

    assert (False, False, None) == (
        chat.stay.is_on_demand,
        chat.stay.is_pinned,
        chat.stay.idle_s,
    )
    assert (True, True, 60.0) == (
        coder.stay.is_on_demand,
        coder.stay.is_pinned,
        coder.stay.idle_s,
    )
    assert str(folder / "coder") == coder.settings.model_path
    assert coder.card is not None
    assert ("coder", 4096) == (coder.card.id, coder.card.context_length)


def test_model_has_the_servers_settings_but_for_its_own(folder: Path) -> None:
    """A key is the variable's name in lower case."""
    own = "context_length = 1024\nmax_concurrency = 2\nmlx_warmup = false\nqueue_timeout = 7\n"
    own += 'aliases = ["a", "b"]\n'
    text = MODEL.format(id="chat") + MODEL.format(id="coder") + own
    chat, coder = plans(by_file(folder, text, kv_bits=8))

    def seen(settings: Settings) -> tuple[object, ...]:
        return (
            settings.context_length,
            settings.max_concurrency,
            settings.warmup,
            settings.queue_timeout_s,
            settings.kv_bits,
        )

    assert (1024, 2, False, 7.0, 8) == seen(coder.settings)
    assert (None, 8, True, 300.0, 8) == seen(chat.settings)
    assert ("a", "b") == coder.aliases


def test_memory_is_planned_from_the_files(folder: Path) -> None:
    """Its weights and a little, and its share of half of all; a number in the file beats that."""
    text = MODEL.format(id="chat") + MODEL.format(id="coder") + "memory_mb = 90\n"
    chat, coder = plans(by_file(folder, text))

    assert (11 + 200, 90) == (chat.settings.memory_mb, coder.settings.memory_mb)
    assert (211 * MB, 90 * MB) == (chat.stay.memory_bytes, coder.stay.memory_bytes)


def test_memory_of_all_is_a_part_of_the_machines_unless_it_is_set() -> None:
    """A server may not take it whole."""
    assert 5 * MB == memory_bytes(Settings(models_memory_mb=5))
    assert 100 * MB < memory_bytes(Settings())


def test_folder_offers_all_that_is_in_it(folder: Path) -> None:
    """By name, beside MODEL_PATH, which is the default then."""
    found = plans(Settings(models_dir=str(folder)))

    assert ["chat", "coder", "small"] == [plan.settings.model_id for plan in found]
    assert [False, True, True] == [plan.stay.is_on_demand for plan in found]
    (folder / "more").mkdir()
    (folder / "chat").rename(folder / "more" / "big")
    found = plans(Settings(models_dir=str(folder), model_path=str(folder / "more" / "big")))
    assert ["big", "coder", "small"] == [plan.settings.model_id for plan in found]


def test_one_model_is_a_plan_of_its_own() -> None:
    """Nothing about it is planned beforehand, and no memory is shared out."""
    (plan,) = plans(Settings())

    assert (None, 0, None) == (plan.settings.memory_mb, plan.stay.memory_bytes, plan.card)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["no [[model]]"]),
        ("models = 1\n", ["line 1", "'models'"]),
        ("[[model]\n", ["models.toml", "line 1"]),
        ('[[model]]\npath = "./chat"\n', ["line 1", "'id'"]),
        ('[[model]]\nid = ""\npath = "./chat"\n', ["line 2", "'id'"]),
        ('[[model]]\nid = "chat"\n', ["line 1", "'path'"]),
        ("{chat}idle = 5\n", ["line 4", "'idle'", "idle_timeout"]),
        ("{chat}model_path = 'x'\n", ["line 4", "'model_path'"]),
        ("{chat}context_length = 3\n", ["line 4", "'context_length'", "x>=16"]),
        ("{chat}context_length = 9000\n", ["CONTEXT_LENGTH 9000", "4096"]),
        ("{chat}chat_template = 3\n", ["line 4", "'chat_template'"]),
        ("{chat}pin = 'yes'\n", ["line 4", "'pin'", "true or false"]),
        ("{chat}idle_timeout = -1\n", ["line 4", "'idle_timeout'", "0<x<=86400"]),
        ("{chat}aliases = 'a'\n", ["line 4", "'aliases'"]),
        ("{chat}on_demand = true\n", ["line 2", "default"]),
        ("{chat}{chat}", ["line 5", "'chat'"]),
        ("{chat}{coder}aliases = ['chat']\n", ["line 5", "'chat'"]),
        ('{chat}[[model]]\nid = "x"\npath = "./nowhere"\n', ["line 5", "nowhere"]),
        (
            '{chat}[[model]]\nid = "x"\npath = "mlx-community/never-made"\n',
            ["line 5", "mlx-community/never-made", "not on this machine"],
        ),
    ],
)
def test_fault_is_told_with_its_place(
    folder: Path, text: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote the file finds it at once."""
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "none"))
    for name in ("chat", "coder"):
        text = text.replace(f"{{{name}}}", MODEL.format(id=name))
    with pytest.raises(BadModels) as refused:
        plans(by_file(folder, text))

    assert [] == [word for word in told if word not in refused.value.message]


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    """With the setting that names them."""
    with pytest.raises(BadModels, match="MODELS_FILE"):
        plans(Settings(models_file=str(tmp_path / "none.toml")))
    with pytest.raises(BadModels, match="MODELS_DIR"):
        plans(Settings(models_dir=str(tmp_path / "none")))
    with pytest.raises(BadModels, match="no model"):
        plans(Settings(models_dir=str(tmp_path)))


def test_settings_of_the_whole_server_are_no_models_own() -> None:
    """Only what an engine or its queue is made with can differ from model to model."""
    keys = set(SETTING_OF_KEY)

    assert {"context_length", "kv_bits", "max_concurrency", "queue_size", "memory_mb"} <= keys
    assert not keys & {"server_port", "api_key", "log_level", "models_file", "model_path"}


def test_share_of_memory_is_no_change(folder: Path) -> None:
    """Each new model makes the shares smaller; those that are there keep what they were planned with."""
    two = MODEL.format(id="chat") + MODEL.format(id="coder")
    own = MODEL.format(id="small") + "memory_mb = 100\n"
    chat, _, small = plans(by_file(folder, two + own))
    (alone,) = plans(by_file(folder, MODEL.format(id="chat")))
    other = plans(by_file(folder, two + own.replace("100", "200")))[2]

    assert chat != alone
    assert alone == chat.in_memory_of(alone)
    assert other == other.in_memory_of(small)
