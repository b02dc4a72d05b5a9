"""Keys by file: who bears which, what is wrong with a file, and what becomes of a change."""

import logging
import os
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.command.main import main
from service.web.keys import LOOK_S, BadKeys, Keys, hashed, new
from tests.test_limits import Clock

ANNA, BEN = hashed(b"annas"), hashed(b"bens")
TABLE = '[[key]]\nname = "{}"\nsha256 = "{}"\n'
BOTH = TABLE.format("anna", ANNA) + "requests_per_minute = 60\n\n" + TABLE.format("ben", BEN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with the keys of two."""
    path = tmp_path / "keys.toml"
    path.write_text(BOTH)
    return path


def name_of(keys: Keys, secret: bytes) -> str | None:
    """Return the name of the key that *secret* is; None: it is none."""
    key = keys.find(secret)
    return None if key is None else key.name


def test_keys_of_a_file(file: Path) -> None:
    """Each is known by its hash; the hash is no key, nor is a name."""
    keys = Keys(file=str(file))

    assert keys.are_needed
    assert ["anna", "ben"] == [name_of(keys, each) for each in (b"annas", b"bens")]
    strange = (b"", b"Annas", b"annas ", b"anna", ANNA.encode(), b"\xff")
    assert [None] * len(strange) == [name_of(keys, each) for each in strange]


def test_key_of_the_setting_goes_on_beside_them(file: Path) -> None:
    """It has no name and no limits."""
    keys = Keys("sesame", str(file))

    assert ["", "ben", None] == [name_of(keys, each) for each in (b"sesame", b"bens", b"x")]
    assert not Keys().are_needed
    assert Keys().find(b"") is None


def test_limits_are_those_of_the_file(file: Path) -> None:
    """Those that are not there are none."""
    keys = Keys(file=str(file))
    anna, ben = keys.find(b"annas"), keys.find(b"bens")

    assert anna is not None
    assert ben is not None
    assert ((60, None), (None, None)) == (anna.limits.per_minute, ben.limits.per_minute)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "keys.toml: ", r"no \[\[key\]\]"),
        ("key = 5\n", "keys.toml: ", r"no \[\[key\]\]"),
        ("[[key]]\nname = =\n", "keys.toml: ", "line 2"),
        (BOTH + "[other]\n", "keys.toml, line 1: ", "unknown 'other'"),
        (BOTH + 'colour = "red"\n', "keys.toml, line 9: ", "unknown 'colour'"),
        (BOTH + 'tokens_per_minute = "many"\n', "keys.toml, line 9: ", "whole number"),
        (BOTH + "requests_per_minute = 0\n", "keys.toml, line 9: ", "whole number"),
        (BOTH + "requests_per_minute = true\n", "keys.toml, line 9: ", "whole number"),
        (TABLE.format("an na", ANNA), "keys.toml, line 2: ", "1 to 64 letters"),
        (TABLE.format("", ANNA), "keys.toml, line 2: ", "1 to 64 letters"),
        (BOTH + TABLE.format("cat", "annas"), "keys.toml, line 11: ", "64 hexadecimal digits"),
        (BOTH + '[[key]]\nname = "cat"\n', "keys.toml, line 9: ", "64 hexadecimal digits"),
        (TABLE.format("cat", hashed(b"")), "keys.toml, line 3: ", "an empty key"),
        (BOTH + TABLE.format("ben", "0" * 64), "keys.toml, line 10: ", "another key of the name"),
        (BOTH + TABLE.format("cat", ANNA), "keys.toml, line 11: ", "the key of 'anna' as well"),
    ],
)
def test_file_that_is_wrong(file: Path, text: str, where: str, what: str) -> None:
    """The message names the file, the line and what is wrong, and no key."""
    file.write_text(text)
    with pytest.raises(BadKeys, match=what) as refused:
        Keys(file=str(file))

    assert refused.value.message.startswith(where)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """The message has the option and its value."""
    with pytest.raises(BadKeys, match=r"API_KEYS_FILE '.*none.toml': No such file or directory."):
        Keys(file=str(tmp_path / "none.toml"))


def change(file: Path, text: str, clock: Clock) -> None:
    """Replace the file as an editor does, and let the time come at which it is looked at."""
    other = file.with_suffix(".new")
    other.write_text(text)
    os.replace(other, file)
    clock.now_s += LOOK_S


def test_file_is_read_again_when_it_has_changed(file: Path) -> None:
    """Who is new is let in, who is gone is not. What a key has used goes on with it; other limits are new."""
    clock = Clock()
    keys = Keys(file=str(file), clock=clock)
    anna = keys.find(b"annas")
    assert anna is not None
    first = TABLE.format("anna", ANNA) + "requests_per_minute = 60\n"
    change(file, first + TABLE.format("cat", hashed(b"cats")), clock)

    assert [None, "cat"] == [name_of(keys, each) for each in (b"bens", b"cats")]
    assert anna is keys.find(b"annas")
    change(file, first.replace("60", "61"), clock)
    again = keys.find(b"annas")
    assert again is not None
    assert (61, None) == again.limits.per_minute


def test_change_that_is_wrong_leaves_the_keys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, with the line; a file that is gone as well. What is mended counts."""
    clock = Clock()
    keys = Keys(file=str(file), clock=clock)
    with caplog.at_level(logging.INFO, "service.web.keys"):
        change(file, BOTH + "limit = 1\n", clock)
        for _ in range(3):
            assert "ben" == name_of(keys, b"bens")
            clock.now_s += LOOK_S
        assert 1 == len(caplog.messages)
        assert "keys.toml, line 9: unknown 'limit'" in caplog.text
        file.unlink()
        clock.now_s += LOOK_S
        assert "ben" == name_of(keys, b"bens")
        assert "No such file or directory" in caplog.messages[1]
        change(file, TABLE.format("cat", hashed(b"cats")), clock)
        assert [None, "cat"] == [name_of(keys, each) for each in (b"bens", b"cats")]


def test_file_is_looked_at_once_a_second(file: Path) -> None:
    """Between two looks nothing is asked of the disk."""
    clock = Clock()
    keys = Keys(file=str(file), clock=clock)
    file.write_text(TABLE.format("cat", hashed(b"cats")))
    clock.now_s += LOOK_S / 2

    assert "ben" == name_of(keys, b"bens")


def test_command_makes_a_key(tmp_path: Path) -> None:
    """What it prints is a file; the key that it shows opens, and differs each time."""
    made = CliRunner().invoke(main, ["key", "anna"])
    path = tmp_path / "keys.toml"
    path.write_text(made.stdout)
    secret = made.stderr.split()[-1]

    assert 0 == made.exit_code
    assert "anna" == name_of(Keys(file=str(path)), secret.encode())
    assert secret not in made.stdout
    assert new("anna") != new("anna")
    assert ["key"] == [*tomllib.loads(new("anna")[1])]


def test_command_refuses_a_name() -> None:
    """A name stands in logs and labels."""
    made = CliRunner().invoke(main, ["key", "anna\nben"])

    assert 2 == made.exit_code
    assert "1 to 64 letters" in made.stderr
