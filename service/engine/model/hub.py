"""A model of the hub: found in its cache, or downloaded once, which is told while it goes on."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from service.catalog.card import UnfitModel
from service.catalog.source import MARK, HubModel
from service.protocol import Downloading

_log = logging.getLogger(__name__)

WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
CODE_FILES = ["*.py"]
LOOK_S = 0.5  # taste: as often as a person reads a number anew
RATE_S = 10.0  # taste: the rate is that of so many last seconds

Hear = Callable[[Downloading], None]


def cached(model: HubModel, wanted: list[str]) -> Path | None:
    """Return the folder of a snapshot that is there, whole as far as is known; None: there is none."""
    try:
        found = huggingface_hub.snapshot_download(
            model.id, local_files_only=True, allow_patterns=wanted
        )
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, OSError, ValueError):
        return None
    return Path(found)


def had(model: HubModel, wanted: list[str], setting: str, hear: Hear = lambda _: None) -> Path:
    """
    Return the folder of a snapshot, downloaded if none is cached; from then on the process is offline.

    Args:
        model: which.
        wanted: patterns of its files.
        setting: the name of the setting that names it.
        hear: told how far a download is, from a thread of its own, and when it is over.

    Raises:
        UnfitModel: it is not here, and can't be had or may not be asked for.
    """
    found = cached(model, wanted)
    if found is None:
        if not model.may_be_asked_for:
            raise UnfitModel(
                f"{setting} names no folder here and no model in the hub's cache; "
                f"to download it from the hub, write {MARK}{model.id}"
            )
        _log.info("%s is not in the cache; downloading it", model.id)
        found = _downloaded(model.id, wanted, hear)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    return found


def n_missing_bytes(model: HubModel, wanted: list[str]) -> int:
    """
    Return how much of *model* would be downloaded.

    Raises:
        UnfitModel: the hub does not tell it.
    """
    try:
        files = huggingface_hub.snapshot_download(model.id, allow_patterns=wanted, dry_run=True)
    except Exception as error:
        raise _explained(model.id, error) from error
    return sum(file.file_size or 0 for file in files if file.will_download)


def _downloaded(hub_id: str, wanted: list[str], hear: Hear) -> Path:
    """Return the folder of a snapshot that is whole now."""
    hear(Downloading(is_over=False))
    is_over = threading.Event()
    try:
        files = huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted, dry_run=True)
        total_bytes = sum(file.file_size or 0 for file in files)
        watch = threading.Thread(
            target=_watch, args=(hub_id, total_bytes, is_over, hear), name="download", daemon=True
        )
        watch.start()
        found = huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted)
    except Exception as error:
        _log.debug("%s cannot be downloaded", hub_id, exc_info=True)
        raise _explained(hub_id, error) from error
    finally:
        is_over.set()
    watch.join()
    hear(Downloading(is_over=True))
    return Path(found)


def _watch(hub_id: str, total_bytes: int, is_over: threading.Event, hear: Hear) -> None:
    """Tell how much of a download is on the disk, until it is over."""
    name = huggingface_hub.constants.REPO_ID_SEPARATOR.join(("models", *hub_id.split("/")))
    blobs = Path(huggingface_hub.constants.HF_HUB_CACHE) / name / "blobs"
    seen: list[tuple[float, int]] = []
    while not is_over.wait(LOOK_S):
        now_s, done_bytes = time.monotonic(), min(sum(_sizes_bytes(blobs)), total_bytes)
        seen = [*(each for each in seen if now_s - each[0] < RATE_S), (now_s, done_bytes)]
        spent_s = now_s - seen[0][0]
        rate = int((done_bytes - seen[0][1]) / spent_s) if spent_s else 0
        hear(Downloading(False, done_bytes, total_bytes, rate))


def _sizes_bytes(folder: Path) -> Iterator[int]:
    """Yield what each file in *folder* takes on the disk; of one that is made ahead, what is written."""
    try:
        for file in folder.iterdir():
            stat = file.stat()
            yield min(stat.st_size, stat.st_blocks * 512)  # stat(2)'s unit, whatever the disk's is
    except OSError:  # a file was renamed, as each is when it is whole
        return


def _explained(hub_id: str, error: BaseException) -> UnfitModel:
    """Say in one sentence why a model can't be had, by what lies at the bottom of *error*."""
    causes = [*_causes(error)]

    def is_among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if is_among(errors.GatedRepoError):
        return UnfitModel(
            f"{hub_id} is gated: its terms have to be accepted on its page of the hub, and HF_TOKEN has to "
            "be a token of that account"
        )
    if is_among(errors.RepositoryNotFoundError):
        return UnfitModel(
            f"the hub has no model {hub_id}, or it is a private one and HF_TOKEN has no right to it"
        )
    if is_among(errors.OfflineModeIsEnabled):
        return UnfitModel(
            f"{hub_id} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
        )
    statuses = [c.response.status_code for c in causes if isinstance(c, errors.HfHubHTTPError)]
    if {401, 403} & {*statuses}:
        return UnfitModel(f"the hub refuses HF_TOKEN for {hub_id}")
    if statuses:
        return UnfitModel(f"the hub answered {statuses[0]} when asked for {hub_id}", may_pass=True)
    if is_among(errors.DryRunError, errors.LocalEntryNotFoundError):
        return UnfitModel(
            f"{hub_id} is not in the cache, and the hub could not be reached", may_pass=True
        )
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return UnfitModel(f"the disk has no room for {hub_id}")
    name = type(error).__name__
    return UnfitModel(f"{hub_id} could not be downloaded ({name})", may_pass=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
