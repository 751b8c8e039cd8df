"""The models that come with fktext: folders beside this file, each with a model card. Made by `recipes/`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fktext.errors import ModelError, unknown_name


def names() -> tuple[str, ...]:
    """The embedded models, sorted."""
    return tuple(sorted(item.name for item in _root().iterdir() if (item / "config.json").is_file()))


def pipelines() -> tuple[str, ...]:
    """The embedded pipelines of diffusers, sorted."""
    return tuple(sorted(item.name for item in _root().iterdir() if (item / "model_index.json").is_file()))


def path(name: str) -> Path:
    """The folder of an embedded model or pipeline.

    Raises:
        UsageError: there is none of that name.
        ModelError: fktext is imported from an archive, where there are no folders.
    """
    if name not in (known := (*names(), *pipelines())):
        raise unknown_name("embedded model", name, known)
    return _root() / name


def _root() -> Path:
    root = resources.files(__name__)
    if not isinstance(root, Path):
        raise ModelError(f"fktext is imported from {root}, an archive: install it unpacked, its models are files")
    return root
