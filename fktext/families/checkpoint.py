"""A model's files before a network is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fktext.errors import ModelError
from fktext.families.config import check

_DEEP = 256  # layers; only of a network that says it has more are the tensors counted


@dataclass(frozen=True)
class Checkpoint:
    """Files of a model, and what they say of it.

    Attributes:
        path: the folder, or a Lightning `.ckpt` file.
        files: those that hold the weights.
        settings: config.json's content, or a Lightning checkpoint's own settings under its names.
    """

    path: Path
    files: tuple[Path, ...]
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Find the files of a folder (or a weight file) and check the settings that come with them.

        Raises:
            ModelError: there are no weights, or files are damaged or contradict each other.
        """
        from fktext.files.lightning import Lightning
        from fktext.files.weights import read_json, tensor_names, weight_files

        if not (files := weight_files(path)):
            raise ModelError(f"{path} holds no weights: looked for model.safetensors, pytorch_model.bin, their shards and *.ckpt")
        source = path / "config.json"
        settings = read_json(source) if path.is_dir() else {}
        if files[0].suffix == ".ckpt" and not settings:
            source, settings = files[0], _lightning_settings(Lightning.read(files[0]))
        check(settings, source)
        for file in files:
            if file.suffix == ".safetensors":
                tensor_names(file)  # says so where it is cut off
        found = cls(path, tuple(files), settings)
        if not found.is_lightning:
            found._check_layers()
        return found

    @property
    def is_lightning(self) -> bool:
        """Whether the weights are a Lightning checkpoint."""
        return self.files[0].suffix == ".ckpt"

    @property
    def folder(self) -> Path:
        """The folder that the files are in."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def section(self) -> Mapping[str, Any]:
        """What config.json says to fktext (`fktext.families.config.Section`)."""
        return self.settings.get("fktext") or {}

    @cached_property
    def tensor_names(self) -> list[str]:
        """The names in the first weight file."""
        from fktext.files.weights import tensor_names

        return tensor_names(self.files[0])

    def has(self, *names: str) -> bool:
        """Tell whether one of these files is there."""
        return any((self.folder / name).is_file() for name in names)

    def _check_layers(self) -> None:
        """Refuse a depth that the files cannot have, before a network of that depth is built: it would take minutes."""
        from fktext.files.weights import tensor_names

        for name in ("n_layers", "num_hidden_layers"):
            layers = self.settings.get(name, 0)
            # The names in a pickle cost a reading of the whole file.
            if isinstance(layers, int) and layers > _DEEP and layers > (held := sum(len(tensor_names(f)) for f in self.files)):
                raise ModelError(
                    f"{self.path} contradicts itself: config.json says {name} {layers}, and its files hold {held} tensors in all"
                )


def mdlm_names(model: Mapping[str, Any]) -> dict[str, Any]:
    """Put a network's sizes, as SEDD and MDLM's training runs name them, under the names of MDLM's config.json."""
    names = {
        "hidden_size": "hidden_dim",
        "length": "model_length",
        "cond_dim": "cond_dim",
        "n_blocks": "n_blocks",
        "n_heads": "n_heads",
    }
    return {new: model[old] for old, new in names.items() if old in model}


_DUO = ("duo", "duo_base", "distillation")  # what DUO's code calls its ways of training


def _lightning_settings(checkpoint: Any) -> dict[str, Any]:
    """Put a Lightning checkpoint's hyper-parameters under the names of the hub's config.json."""
    config = checkpoint.settings.get("config") or {}
    if (config.get("algo") or {}).get("name") in _DUO:
        if str(noise := (config.get("noise") or {}).get("type", "log-linear")).replace("-", "") != "loglinear":
            raise ModelError(f"{checkpoint.path} has noise {noise!r}; of DUO only models of log-linear noise are known")
        return mdlm_names(config.get("model") or {}) | {"model_type": "duo"}
    objective = (config | (config.get("algo") or {})).get("parameterization", "subs")  # newer code keeps it under "algo"
    if objective != "subs":
        raise ModelError(f"{checkpoint.path} has parameterization {objective!r}; masked diffusion needs 'subs'")
    sizes = mdlm_names(config.get("model") or {})
    if (config.get("algo") or {}).get("name") == "bd3lm":
        return sizes | {"model_type": "bd3lm", "block_size": config.get("block_size")}
    return sizes | ({"time_conditioning": config["time_conditioning"]} if "time_conditioning" in config else {})
