"""Read weights from files without running anything that is in them.

safetensors hold tensors only. `.bin` files are pickles, read by `torch.load(weights_only=True)`, which refuses everything else.
Lightning `.ckpt` files pickle configuration objects beside the tensors, so they are read here by an unpickler that builds tensors
and plain containers, and an inert placeholder wherever the file names any other class.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fktext.errors import ModelError
from fktext.files.lightning import Lightning

_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def weight_files(path: Path) -> list[Path]:
    """Return the files of a model's weights, safetensors before `.bin` before a single `.ckpt`; [] where there are none.

    Args:
        path: a folder in hub layout (one file, or shards and their index), or a weight file.

    Raises:
        ModelError: an index is malformed or names a shard that is not there or outside the folder, or a folder holds several
            `.ckpt` and nothing better.
    """
    if path.is_file():
        return [path]
    for name in _NAMES:
        if (file := path / name).is_file():
            if file.suffix != ".json":
                return [file]
            names = read_json(file).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
                raise ModelError(f"{file} has no weight_map from tensors to files")
            for shard in names.values():
                # By its name alone: what lies in the hub's cache are links to files elsewhere. Windows' rules have both slashes.
                if (place := PureWindowsPath(shard)).anchor or ".." in place.parts:
                    raise ModelError(f"{file} names {shard!r}: expected a file in its folder")
            shards = [path / shard for shard in sorted(set(names.values()))]
            for shard in shards:
                if not shard.is_file():
                    raise ModelError(f"{file} names {shard.name}, which is not in the folder")
            return shards
    checkpoints = sorted(path.glob("*.ckpt"))
    if len(checkpoints) > 1:
        raise ModelError(f"{path} holds {len(checkpoints)} .ckpt files: name one of them, such as {checkpoints[0]}")
    return checkpoints


def digest(files: Iterable[Path]) -> str:
    """Return the first 16 hex digits of the sha256 over the files' contents, one after the other."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file, {} where the file does not exist.

    Raises:
        ModelError: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise ModelError(f"{path} is JSON nested too deeply to be read") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors in a weight file, without reading their values where the format allows it."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                return list(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    return list(read_tensors(file))


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a weight file by name, without reading their values where the format allows it."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                names = [name for name in tensors.keys() if not name.endswith(_SCALE)]  # noqa: SIM118, it is not a mapping
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in read_tensors(file).items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read all tensors of a weight file (`.safetensors`, `.bin`, `.pt`) to the CPU; those stored as int8 become float32.

    Raises:
        ModelError: the file is damaged, or is a pickle of more than tensors (nothing of it has been executed).
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                return dequantised({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118, it is not a mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    if file.suffix == ".ckpt":
        return Lightning.read(file).weights()
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file} holds more than tensors and was not loaded; nothing in it was executed") from error
    except Exception as error:  # whatever an unpickler makes of a file that is not a pickle
        line = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{file} cannot be read as tensors: {type(error).__name__}: {line}") from error
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ModelError(f"{file} is not a state dict: a mapping from names to tensors")
    return value


_SCALE = ".int8_scale"


def quantised(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store matrices as int8 with one float16 scale a row (`NAME.int8_scale`), other floating tensors as float16.

    A row's scale is its largest magnitude / 127, so a value is off by at most half a scale. `read_tensors` undoes it.
    """
    small: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.ndim == 2:
            scale = (tensor.abs().amax(1) / 127).half().clamp(min=2**-24)  # of a row of zeros: the smallest float16
            small[name] = (tensor / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
            small[name + _SCALE] = scale
        else:
            small[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
    return small


def dequantised(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `quantised` matrices in float32, and other tensors as they are."""
    scales = {name.removesuffix(_SCALE): scale for name, scale in weights.items() if name.endswith(_SCALE)}
    plain = {name: tensor for name, tensor in weights.items() if not name.endswith(_SCALE)}
    return plain | {name: plain[name].float() * scale.float()[:, None] for name, scale in scales.items()}


def int8_weights(folder: Path) -> dict[str, Tensor] | None:
    """Return the weights of a folder written through `quantised`, None for any other folder."""
    file = folder / "model.safetensors"
    if not file.is_file() or not any(name.endswith(_SCALE) for name in tensor_names(file)):
        return None
    return read_tensors(file)
