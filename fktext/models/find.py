"""Find the files of a model by its name."""

from __future__ import annotations

import os
import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.families import FAMILIES, Checkpoint, Family, recognise
from fktext.families.tokenizer import tokenizer_file
from fktext.files import hub
from fktext.files.catalogue import catalogue
from fktext.images.names import is_pipeline

if TYPE_CHECKING:
    from fktext.plugins.entries import ModelEntry


DEFAULT = "tiny-mdlm"
_LAYERS = chain.from_iterable(family.layers for family in FAMILIES.values())
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "README.md", *_LAYERS)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find(name: str, *, offline: bool = False) -> Path:
    """Find the files of a model, fetched from the hub if need be and allowed.

    Returns:
        A folder, or a weight file.

    Raises:
        UsageError: nobody knows the name, or a plugin makes the model, without files.
        ModelError: the hub is needed and cannot be reached, or `offline`.
        PluginError: the model is a plugin's, and that is broken.
    """
    return locate(name, plugin_entry(name), offline)


def pull(name: str, *, offline: bool = False) -> list[Path]:
    """Fetch everything a model needs into the local hub cache, so that it works without a network afterwards.

    Returns:
        Its folder (or weight file), and the file of its tokenizer where that is another repository's.

    Raises:
        UsageError, ModelError, PluginError: see `find`.
    """
    path = find(name, offline=offline)
    checkpoint = Checkpoint.read(path)
    tokenizer = tokenizer_file(checkpoint.folder, family_of(name, checkpoint), offline)
    return [path, *([tokenizer] if tokenizer is not None and tokenizer.parent != path else [])]


def family_of(name: str, checkpoint: Checkpoint) -> Family:
    """Return the family that a model of our list is said to be of, or else the one that its files tell.

    Raises:
        ModelError: the files are of no known family.
    """
    said = next((entry.family for entry in catalogue() if name in (entry.name, entry.source)), "")
    return FAMILIES[said] if said else recognise(checkpoint)


def plugin_entry(name: str) -> ModelEntry | None:
    """Return the plugin's model of that name; None where the name is ours, a path or a hub id.

    Raises:
        UsageError: nobody knows the name.
        PluginError: the plugin is broken.
    """
    known = [entry.name for entry in catalogue()]
    if name == DEFAULT and name not in known:
        embedded.path(name)  # says that the weights are not installed
    if not name:
        raise UsageError("the model's name is empty: give a listed name (`fktext models`), a folder or a hub id")
    if is_pipeline(name):
        raise UsageError(f"model {name!r} makes images, not texts: `fktext image generate --model {name}` takes it")
    if name in known or Path(name).expanduser().exists() or HUB_ID.fullmatch(name):
        return None
    if name.startswith((".", "~", os.sep)) or name.endswith((".ckpt", ".safetensors", ".bin")):
        raise UsageError(f"model {name!r}: there is no such file or folder")
    from fktext.plugins import load_plugins

    return load_plugins().model(name, known)


def locate(name: str, entry: ModelEntry | None, offline: bool) -> Path:
    """See `find`; `entry` is the plugin's."""
    aliases = {entry.name: entry.source for entry in catalogue() if entry.source != "embedded"}
    if name in {entry.name for entry in catalogue()} - aliases.keys():
        return embedded.path(name)
    if entry is not None and entry.factory is not None:
        raise UsageError(f"model {entry.qualified!r} is made by its plugin: it has no files")
    repo = entry.source if entry is not None else aliases.get(name, name)
    if (path := Path(repo if entry is not None else name).expanduser()).exists():
        return path
    if not HUB_ID.fullmatch(repo):
        raise ModelError(f"model {name!r}: its plugin names {repo!r}, which is neither a folder that exists nor a hub id")
    if (folder := _cached(repo)) is not None:
        return folder
    if offline or hub.is_offline():
        known = "" if name == repo else f" ({repo})"
        raise ModelError(
            f"model {name!r}{known} is neither a folder nor in the local hub cache, and fktext is told to stay offline"
        )
    folder = hub.download(repo, _HUB_FILES)
    if not any(folder.glob("*.safetensors")):
        folder = hub.download(repo, ("*.bin", "*.ckpt"))
    return folder


def _cached(repo: str) -> Path | None:
    """Return the folder of a model that is whole in the local hub cache."""
    from fktext.files.weights import weight_files

    if (config := hub.cached(repo, "config.json")) is None:
        return None
    try:
        return config.parent if weight_files(config.parent) else None
    except ModelError:  # shards are missing: an interrupted download
        return None
