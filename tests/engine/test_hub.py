"""Models of the hub: found in the cache, downloaded, and in a sentence why not."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from service.catalog.card import UnfitModel
from service.engine.model.load import locate

ID = "mlx-community/some-model"


class Response:
    """What the hub's errors ask of an answer."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    text = ""

    def __init__(self, status: int) -> None:
        self.status_code = status


def failing(error: Exception, cause: Exception | None = None) -> object:
    """Return what stands in for a download: nothing is cached, and the network gives *error*."""

    def snapshot_download(*_: object, local_files_only: bool = False, **__: object) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not cached")
        raise error from cause

    return snapshot_download


@pytest.mark.parametrize(
    ("error", "cause", "sentence", "may_pass"),
    [
        (
            errors.GatedRepoError("x", response=Response(403)),
            None,
            f"{ID} is gated: its terms have to be accepted on its page of the hub, and HF_TOKEN has to be a "
            "token of that account",
            False,
        ),
        (
            errors.DryRunError("x"),
            errors.RepositoryNotFoundError("x", response=Response(401)),
            f"the hub has no model {ID}, or it is a private one and HF_TOKEN has no right to it",
            False,
        ),
        (
            errors.DryRunError("x"),
            errors.HfHubHTTPError("x", response=Response(401)),
            f"the hub refuses HF_TOKEN for {ID}",
            False,
        ),
        (
            errors.DryRunError("x"),
            errors.HfHubHTTPError("x", response=Response(502)),
            f"the hub answered 502 when asked for {ID}",
            True,
        ),
        (
            errors.DryRunError("x"),
            errors.OfflineModeIsEnabled("x"),
            f"{ID} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub",
            False,
        ),
        (
            errors.DryRunError("x"),
            ConnectionError("x"),
            f"{ID} is not in the cache, and the hub could not be reached",
            True,
        ),
        (OSError(28, "x"), None, f"the disk has no room for {ID}", False),
        (KeyError("x"), None, f"{ID} could not be downloaded (KeyError)", True),
    ],
    ids=["gated", "unknown", "token", "down", "offline", "unreachable", "full", "else"],
)
def test_model_that_cannot_be_had(
    error: Exception,
    cause: Exception | None,
    sentence: str,
    may_pass: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reason is one sentence, and says whether another try may go well."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error, cause))
    with pytest.raises(UnfitModel) as caught:
        locate(ID)

    assert sentence == str(caught.value)
    assert may_pass == caught.value.may_pass


def test_name_that_may_be_a_mistyped_path_never_leaves_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the cache is asked for it; the reason says how to ask the hub."""
    asked: list[object] = []

    def snapshot_download(*_: object, local_files_only: bool = False, **__: object) -> str:
        asked.append(local_files_only)
        raise errors.LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        UnfitModel, match=r"ADAPTER_PATH names no folder here .* write hf:m/secret$"
    ):
        locate("m/secret", "ADAPTER_PATH")

    assert [True] == asked


def test_cached_model_never_asks_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A snapshot in the cache is found with local files only, and the process goes offline for good."""
    asked: list[object] = []

    def snapshot_download(hub_id: str, **options: object) -> str:
        asked.append(options.get("local_files_only"))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    found = locate("someone/some-model")

    assert ("someone/some-model", tmp_path) == found
    assert [True] == asked
    assert huggingface_hub.constants.HF_HUB_OFFLINE
