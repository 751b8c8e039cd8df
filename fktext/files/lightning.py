"""Checkpoints of PyTorch Lightning, read without running anything that their pickles name."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fktext.errors import ModelError


class Inert:
    """Stand in for an object of a class that is not loaded: remember its state, do nothing."""

    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: object, **options: object) -> Inert:
        """Take any arguments; pickle may skip `__init__`."""
        self = super().__new__(cls)
        self.state, self.items = None, {}
        return self

    def __call__(self, *args: object, **options: object) -> Inert:
        """Return another placeholder."""
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
    """Build records and plain containers; no name in the file is ever imported."""

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
        """Return the backbone's tensors.

        Args:
            ema: take the moving average where the file has one, as the published samplers do, instead of the raw weights.

        Raises:
            ModelError: the average does not fit the parameters.
        """
        own = [name for name in self.state_dict if not name.startswith("teacher")]  # that is what a model was distilled from
        names = [name for name in own if "backbone." in name] or own
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
    """Return the folder inside the archive that holds everything."""
    return archive.namelist()[0].partition("/")[0] if archive.namelist() else ""


def _materialise(archive: zipfile.ZipFile, root: str, record: _Record) -> Tensor:
    raw = bytearray(archive.read(f"{root}/data/{record.storage.key}"))
    flat = torch.frombuffer(raw, dtype=record.storage.dtype)
    if len(flat) != record.storage.size:
        raise ValueError(f"storage {record.storage.key} has {len(flat)} values, expected {record.storage.size}")
    return torch.as_strided(flat, record.size, record.stride, record.offset).clone()


def _plain(value: Any) -> Any:
    """Turn placeholders into plain nested values; omegaconf keeps a container in `_content` and a leaf in `_val`."""
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return _plain(value.items or state.get("_content", state.get("_val")))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
