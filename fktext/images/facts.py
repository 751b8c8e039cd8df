"""What is known of a pipeline of images before it is loaded: read from its files' headers, not from their tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fktext.errors import ModelError
from fktext.files import hub
from fktext.files.catalogue import image_catalogue
from fktext.files.weights import read_json
from fktext.images.names import INDEX, place
from fktext.images.pipelines import digest_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class PipelineFacts:
    """A pipeline at rest.

    Attributes:
        name, summary: as listed.
        family: "diffusers".
        source: "embedded", a hub id or a folder.
        licence: as listed, or else as its card says.
        files: its folder, None where it is not on this machine.
        why: why there are no files, "" where there are.
        pipeline, scheduler: their classes in diffusers.
        size: bytes of its weight files.
        digest: of them, as rows have it.
        parameters: how many numbers each of its networks holds.
        memory: dtype -> bytes that they take.
    """

    name: str
    summary: str
    source: str
    licence: str
    files: Path | None = None
    why: str = ""
    pipeline: str = ""
    scheduler: str = ""
    size: int = 0
    digest: str = ""
    parameters: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    family: str = "diffusers"


def facts(name: str) -> PipelineFacts:
    """Tell what is known of a pipeline; no network is used.

    Args:
        name: an embedded pipeline, an alias or a folder, see `fktext.images.names.is_pipeline`.

    Raises:
        ModelError: its files are damaged.
    """
    listed = next((entry for entry in image_catalogue() if entry.name == name), None)
    known = (
        PipelineFacts(name, listed.summary, listed.source, listed.licence)
        if listed
        else PipelineFacts(name, "", "folder", "not stated")
    )
    folder = _folder(name)
    if folder is None:
        return replace(known, why=f"not on this machine; `fktext image generate --model {name}` fetches them")
    networks = {path.parent.name: 0 for path in _weights(folder)}
    for path in _weights(folder):
        networks[path.parent.name] += _parameters(path)
    total = sum(networks.values())
    return replace(
        known,
        licence=hub.front_matter(folder / "README.md").get("license", "not stated") if listed is None else known.licence,
        files=folder,
        pipeline=str(read_json(folder / INDEX).get("_class_name", "")),
        scheduler=str(read_json(folder / "scheduler" / "scheduler_config.json").get("_class_name", "")),
        size=sum(path.stat().st_size for path in _weights(folder)),
        digest=digest_of(folder) or "",
        parameters=networks,
        memory={dtype: total * size for dtype, size in BYTES.items()},
    )


def _folder(name: str) -> Path | None:
    """Find the files, those of a hub id in the local cache."""
    found = place(name)
    if Path(found).is_dir():
        return Path(found)
    index = hub.cached(found, INDEX)
    return index.parent if index is not None else None


def _weights(folder: Path) -> list[Path]:
    """List the files of its networks, of each tensor one: `unet/x.fp16.safetensors` is `unet/x.safetensors` again."""
    found = sorted(folder.glob("*/*.safetensors"))
    plain = [path for path in found if not {"fp16", "bf16", "non_ema", "ema_only"} & set(path.name.split("."))]
    return plain or found


def _parameters(path: Path) -> int:
    try:
        with safe_open(path, "pt") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
