"""Files of the Hugging Face hub: from the local cache, and from the network only when asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fktext.errors import ModelError, one_line


def cached(repo: str, file: str) -> Path | None:
    """Return a file of a hub repository in the local cache, or None, without touching a network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file)
    return Path(found) if isinstance(found, str) else None


def front_matter(card: Path) -> dict[str, Any]:
    """Return the values of a model card's front matter that are plain text; {} where there is no card or none of it.

    Raises:
        ModelError: it is not YAML.
    """
    from huggingface_hub import metadata_load

    if not card.is_file():
        return {}
    try:
        found = metadata_load(card) or {}
    except Exception as error:  # of the YAML parser
        raise ModelError(f"{card} has front matter that cannot be read: {one_line(error, 200)}") from error
    return {key: value for key, value in found.items() if isinstance(value, str)}


def is_offline() -> bool:
    """Tell whether the environment (HF_HUB_OFFLINE) forbids network look-ups."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(repo: str, patterns: Sequence[str]) -> Path:
    """Fetch the files of a hub repository that match, into the local cache.

    Returns:
        The folder that holds them.

    Raises:
        ModelError: there is no such repository, no access to it, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError as error:  # its own message takes five lines
        reason = one_line(error.__cause__ or error, 200)
        raise ModelError(
            f"cannot fetch {repo}: the hub cannot be reached ({reason}). A folder, or a model pulled before, needs no network"
        ) from error
    except Exception as error:  # the hub client raises its own, the HTTP library's and the operating system's
        raise ModelError(f"cannot fetch {repo} from the hub: {type(error).__name__}: {one_line(error, 200)}") from error
