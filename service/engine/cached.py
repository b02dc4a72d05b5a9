"""`tier3a models`: what the hub's cache on this machine holds; nothing is asked of the network."""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub import CachedRepoInfo, CacheNotFound, constants, scan_cache_dir

from service.catalog.card import UnfitModel, read_json


def main() -> None:
    """Print a line for each model: its id, its size, its type."""
    try:
        found = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except CacheNotFound:
        found = []
    models = [repo for repo in found if repo.repo_type == "model"]
    for repo in models:
        print(f"{repo.repo_id:<56} {repo.size_on_disk / 1e6:>10,.0f} MB  {_kind(repo)}")
    if not models:
        print(f"no model is in {constants.HF_HUB_CACHE}", file=sys.stderr)


def _kind(repo: CachedRepoInfo) -> str:
    """Return the type that the newest snapshot's config tells, and whether weights are there."""
    newest = max(repo.revisions, key=lambda each: each.last_modified, default=None)
    if newest is None:
        return "nothing whole"
    folder = Path(newest.snapshot_path)
    try:
        kind = (read_json(folder / "config.json") or {}).get("model_type") or "no config.json"
    except UnfitModel:
        kind = "no readable config.json"
    has_weights = any(folder.glob("model*.safetensors"))
    return str(kind) if has_weights else f"{kind}, no weights for MLX"


if __name__ == "__main__":
    main()
