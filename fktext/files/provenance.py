"""Tell which weights a reward uses, whatever they are called."""

from __future__ import annotations

from pathlib import Path

from fktext.files.weights import digest, weight_files


def hub_revision(model: str) -> str | None:
    """Return the commit of a hub id that is in the local cache and was just loaded; None for a folder, and what is not there."""
    snapshot = None if Path(model).expanduser().exists() else _snapshot(model, None)
    return snapshot.name if snapshot else None


def weights_digest(model: str | Path, revision: str | None = None) -> str | None:
    """Return the first 16 hex digits of the sha256 over a model's weight files.

    Args:
        model: a folder, a weight file, or a hub id that is in the local cache.
        revision: of the hub id, the commit that was loaded.

    Returns:
        None where the weights lie in none of these places.
    """
    path = Path(model).expanduser()
    found = path if path.exists() else _snapshot(str(model), revision)
    files = weight_files(found) if found else []
    return digest(files) if files else None


def _snapshot(model: str, revision: str | None) -> Path | None:
    """Return the folder of a hub id in the local cache, named by its commit."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:  # no hub id
        return None
    return Path(found).parent if isinstance(found, str) else None
