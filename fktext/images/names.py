"""Which names are those of pipelines of images, and where their files are. Neither torch nor diffusers is imported."""

from __future__ import annotations

from pathlib import Path

from fktext import embedded
from fktext.files.catalogue import image_catalogue

INDEX = "model_index.json"  # what makes a folder a pipeline


def is_pipeline(name: str) -> bool:
    """Tell whether a name is that of an embedded pipeline, an alias of one, or of a folder that holds one."""
    return name in {entry.name for entry in image_catalogue()} or (Path(name).expanduser() / INDEX).is_file()


def place(name: str) -> str:
    """Return the folder or the hub id that a name stands for: an embedded pipeline, a folder, an alias, else itself."""
    if name in embedded.names("pipeline"):
        return str(embedded.path(name))
    if (folder := Path(name).expanduser()).exists():
        return str(folder)
    return next((entry.source for entry in image_catalogue() if entry.name == name), name)
