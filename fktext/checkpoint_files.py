"""Reading weights from files without running anything that is in them.

safetensors hold tensors only. `.bin` files are pickles, read by `torch.load(weights_only=True)`, which refuses everything else.
Lightning `.ckpt` files pickle configuration objects beside the tensors, so they are read here by an unpickler that builds tensors
and plain containers, and an inert placeholder wherever the file names any other class.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fktext.errors import ModelError

_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def weight_files(path: Path) -> list[Path]:
    """The files that hold a model's weights, safetensors before `.bin` before a single `.ckpt`; [] where there are none.

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
    """First 16 hex digits of the sha256 over the files' contents, one after the other."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, {} where the file does not exist.

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
    """The names of the tensors in a weight file, without reading their values where the format allows it."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                return list(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    return list(read_tensors(file))


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a weight file by name, without reading their values where the format allows it."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                names = [name for name in tensors.keys() if not name.endswith(_SCALE)]  # noqa: SIM118, it is no mapping
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in read_tensors(file).items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a weight file (`.safetensors`, `.bin` or `.pt`), on the CPU; matrices stored as int8 (`quantised`) in float32.

    Raises:
        ModelError: the file is damaged, or is a pickle of more than tensors (nothing of it has been executed).
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                return dequantised({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118, it is no mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
    if file.suffix == ".ckpt":
        return Lightning.read(file).weights()
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file} holds more than tensors and was not loaded; nothing in it was executed") from error
    except Exception as error:  # whatever an unpickler makes of a file that is no pickle
        line = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{file} cannot be read as tensors: {type(error).__name__}: {line}") from error
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ModelError(f"{file} is not a state dict: a mapping from names to tensors")
    return value


_SCALE = ".int8_scale"


def quantised(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with one float16 scale a row (`NAME.int8_scale`), other floating tensors as float16: for small files.

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
    """The float32 matrices of `quantised` tensors; other tensors as they are."""
    scales = {name.removesuffix(_SCALE): scale for name, scale in weights.items() if name.endswith(_SCALE)}
    plain = {name: tensor for name, tensor in weights.items() if not name.endswith(_SCALE)}
    return plain | {name: plain[name].float() * scale.float()[:, None] for name, scale in scales.items()}


def int8_weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights of a folder written through `quantised`, None for any other folder."""
    file = folder / "model.safetensors"
    if not file.is_file() or not any(name.endswith(_SCALE) for name in tensor_names(file)):
        return None
    return read_tensors(file)


class Inert:
    """Stands in for an object of a class that is not loaded: remembers its state, does nothing."""

    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: object, **options: object) -> Inert:
        """Take any arguments; pickle may skip `__init__`."""
        self = super().__new__(cls)
        self.state, self.items = None, {}
        return self

    def __call__(self, *args: object, **options: object) -> Inert:
        """Another placeholder."""
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Drop a list's item."""

    def extend(self, values: Any) -> None:
        """Drop a list's items."""

    def add(self, value: Any) -> None:
        """Drop a set's item."""


@dataclass(frozen=True)
class _Storage:
    """A storage in the archive, not read yet."""

    dtype: torch.dtype
    key: str
    size: int


@dataclass(frozen=True)
class _Record:
    """A tensor in the archive, not read yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Unpickler(pickle.Unpickler):
    """Builds records and plain containers; no name in the file is ever imported."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.hostile: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._parameter
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        # Safety does not rest on this list, since placeholders do nothing: it is there to say what the file tried.
        if module.partition(".")[0] in {
            "os",
            "posix",
            "nt",
            "subprocess",
            "sys",
            "runpy",
            "importlib",
            "shutil",
            "socket",
            "ctypes",
        } or (module in {"builtins", "__builtin__"} and name in {"eval", "exec", "compile", "open", "__import__"}):
            self.hostile.append(f"{module}.{name}")
        return type(name.rpartition(".")[2], (Inert,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Storage(pid[1], str(pid[2]), int(pid[4]))

    def _tensor(self, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> _Record:
        return _Record(storage, offset, size, stride)

    def _parameter(self, data: Any, *_: object) -> Any:
        return data


@dataclass(frozen=True)
class Lightning:
    """A Lightning checkpoint, its tensors still in the file.

    Attributes:
        path: the file.
        state_dict: name -> record, in the order the model registered them.
        shadow: the exponential moving average of the parameters, a list in the order of the parameters; [] where none was kept.
        settings: the hyper-parameters as plain nested dicts, with objects of unknown classes as None.
    """

    path: Path
    state_dict: Mapping[str, _Record]
    shadow: list[_Record]
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Lightning:
        """Read the checkpoint's structure.

        Raises:
            ModelError: the file is damaged, carries code (which is not executed), or is no Lightning checkpoint.
        """
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{_root(archive)}/data.pkl") as stream:
                unpickler = _Unpickler(stream)
                value = unpickler.load()
            if unpickler.hostile:
                names = ", ".join(unpickler.hostile)
                raise ModelError(f"{path} carries code ({names}) and was not loaded; nothing in it was executed")
            state = value.get("state_dict") if isinstance(value, dict) else None
            if not isinstance(state, dict) or not state:
                raise ModelError(f"{path} is not a Lightning checkpoint: it has no state_dict")
            ema = value.get("ema")
            shadow = list(ema.get("shadow_params", [])) if isinstance(ema, dict) else []
            if not all(isinstance(item, _Record) and isinstance(item.storage, _Storage) for item in [*state.values(), *shadow]):
                raise ModelError(f"{path} is damaged: its weights are not all tensors")
            settings = _plain(value.get("hyper_parameters"))
            return cls(path, state, shadow, settings if isinstance(settings, dict) else {})
        except ModelError:
            raise
        except (zipfile.BadZipFile, OSError) as error:
            raise ModelError(f"{path} is not a whole checkpoint archive: {error}") from error
        except Exception as error:  # whatever a malformed pickle makes of placeholders
            raise ModelError(f"{path} is not a Lightning checkpoint: {type(error).__name__}: {error}") from error

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        """The backbone's tensors.

        Args:
            ema: take the moving average where the file has one, as the published samplers do, instead of the raw weights.

        Raises:
            ModelError: the average does not fit the parameters.
        """
        names = [name for name in self.state_dict if "backbone." in name] or list(self.state_dict)
        chosen = {name: self.state_dict[name] for name in names}
        if ema and self.shadow:
            # The list follows the model's parameters; the state dict has them in the same order, with the buffers between.
            parameters = [name for name in names if not name.endswith("rotary_emb.inv_freq")]
            if [self.state_dict[name].size for name in parameters] != [record.size for record in self.shadow]:
                raise ModelError(
                    f"{self.path}: the moving average ({len(self.shadow)} tensors) does not fit the {len(parameters)} parameters"
                )
            chosen.update(zip(parameters, self.shadow, strict=True))
        with zipfile.ZipFile(self.path) as archive:
            root = _root(archive)
            try:
                return {name: _materialise(archive, root, record) for name, record in chosen.items()}
            except (KeyError, zipfile.BadZipFile, RuntimeError, ValueError, TypeError) as error:
                raise ModelError(f"{self.path} is damaged: {error}") from error


def _root(archive: zipfile.ZipFile) -> str:
    """The folder inside the archive that holds everything."""
    return archive.namelist()[0].partition("/")[0] if archive.namelist() else ""


def _materialise(archive: zipfile.ZipFile, root: str, record: _Record) -> Tensor:
    raw = bytearray(archive.read(f"{root}/data/{record.storage.key}"))
    flat = torch.frombuffer(raw, dtype=record.storage.dtype)
    if len(flat) != record.storage.size:
        raise ValueError(f"storage {record.storage.key} has {len(flat)} values, expected {record.storage.size}")
    return torch.as_strided(flat, record.size, record.stride, record.offset).clone()


def _plain(value: Any) -> Any:
    """Nested plain values out of placeholders; omegaconf keeps a container in `_content` and a leaf in `_val`."""
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return _plain(value.items or state.get("_content", state.get("_val")))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
