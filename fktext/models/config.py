"""What a model's config.json says: its family, the section `fktext`, and other entries that nothing but fktext would check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fktext.errors import ModelError


class Section(BaseModel):
    """What a model says to fktext; what it leaves out is told from its files or its family (docs/models.md)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bos_token: str | None = None
    end_token: str | None = None
    pad_token: str | None = None
    default_length: int = Field(2, ge=2, le=100_000)
    default_steps: int = Field(1, ge=1, le=100_000)
    default_temperature: float = Field(1.0, ge=1e-30, le=1e30)
    default_top_p: float = Field(1.0, gt=0, le=1)
    block: int = Field(1, ge=1)
    tie_embed_sum: bool = False


class Config(BaseModel):
    """Entries of config.json; those not listed here are for transformers to check, or for the family."""

    model_config = ConfigDict(strict=True)

    fktext: Section | None = None
    architectures: list[str] | None = None
    model_length: int = Field(2, ge=2)
    time_conditioning: bool = False
    mask_token_id: int | None = None
    rope_theta: float | None = Field(None, gt=0, allow_inf_nan=False)


def check(settings: Mapping[str, Any], source: Path) -> None:
    """Look at every entry that fktext reads before it is used.

    Args:
        settings: config.json's content, or a checkpoint's own settings.
        source: what they were read from, for errors.

    Raises:
        ModelError: an entry is unknown or of the wrong type or size; names the first such.
    """
    try:
        Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        known = f" Known: {', '.join(Section.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ModelError(f"{source} has {place} {first['input']!r}: {first['msg']}.{known}") from error


# Length and steps where the model's own config.json does not say; the first are those of the Feynman-Kac steering paper.
_DEFAULTS = {"dit": (128, 1000), "sedd": (128, 128), "mlm": (32, 64), "llada": (128, 128), "dream": (128, 128), "ssdlm": (50, 500)}
_SIMPLEX_TOP_P = 0.95  # the nucleus of the published SSD-LM's sampling projection
_DEEP = 256  # layers; only of a network that says it has more are the tensors counted
SIMPLEX_FILES = ("embed_sum_layer.pt", "timestep_layer.pt")  # what makes a RoBERTa folder an SSD-LM


def defaults(settings: Mapping[str, Any], family: str, most: int) -> dict[str, Any]:
    """Length, steps, temperature and top_p of a run that names none.

    Args:
        settings: config.json's content; its section `fktext` comes first.
        family: of the model.
        most: tokens that the network takes.
    """
    section = settings.get("fktext") or {}
    length, steps = _DEFAULTS[family]
    return {
        "length": section.get("default_length", min(length, most)),
        "steps": section.get("default_steps", steps),
        "temperature": float(section.get("default_temperature", 1.0)),
        "top_p": section.get("default_top_p", _SIMPLEX_TOP_P if family == "ssdlm" else 1.0),
    }


def no_weights(path: Path) -> ModelError:
    """The error for a folder without weights; says what was looked for."""
    return ModelError(f"{path} holds no weights: looked for model.safetensors, pytorch_model.bin, their shards and *.ckpt")


def read_settings(path: Path, files: list[Path]) -> tuple[dict[str, Any], str]:
    """config.json's content (or a checkpoint's own settings under its names) and the family.

    Raises:
        ModelError: the files are damaged, or of no known family; says what was looked for.
    """
    from fktext.files.lightning import Lightning
    from fktext.files.weights import read_json, tensor_names
    from fktext.models.config import check

    settings = read_json(path / "config.json") if path.is_dir() else {}
    check(settings, path / "config.json")
    kind, architectures = settings.get("model_type"), settings.get("architectures") or []
    if files[0].suffix == ".ckpt":
        if not settings:
            settings = _lightning_settings(Lightning.read(files[0]))
            check(settings, files[0])
        return settings, "dit"
    _check_layers(settings, path, files)
    if kind in ("mdlm", "llada", "Dream"):
        return settings, {"mdlm": "dit", "llada": "llada", "Dream": "dream"}[kind]
    if "graph" in settings and "tokens" in settings:
        return settings, "sedd"
    if any(str(item).endswith("ForMaskedLM") for item in architectures):
        simplex = "tie_embed_sum" in (settings.get("fktext") or {}) or any((path / layer).is_file() for layer in SIMPLEX_FILES)
        return settings, "ssdlm" if simplex else "mlm"
    if not settings and any(item.endswith("vocab_embed.embedding") for item in tensor_names(files[0])):
        return settings, "dit"
    found = f"model_type {kind!r} and architectures {architectures}" if settings else "no config.json"
    raise ModelError(
        f"cannot tell how to run {path}: it has {found}. Looked for a "
        "config.json with model_type 'mdlm', 'llada' or 'Dream', an architecture that ends in ForMaskedLM, or SEDD's graph and "
        "tokens; without one, for "
        "MDLM's tensor names or a Lightning .ckpt"
    )


def _check_layers(settings: Mapping[str, Any], path: Path, files: Sequence[Path]) -> None:
    """Refuse a depth that the files cannot have, before a network of that depth is built: it would take minutes."""
    from fktext.files.weights import tensor_names

    for name in ("n_layers", "num_hidden_layers"):
        layers = settings.get(name, 0)
        # The names in a pickle cost a reading of the whole file.
        if isinstance(layers, int) and layers > _DEEP and layers > (held := sum(len(tensor_names(file)) for file in files)):
            raise ModelError(
                f"{path} contradicts itself: config.json says {name} {layers}, and its files hold {held} tensors in all"
            )


def _lightning_settings(checkpoint: Any) -> dict[str, Any]:
    """A Lightning checkpoint's hyper-parameters under the names of the hub's config.json."""
    config = checkpoint.settings.get("config") or {}
    if config.get("parameterization", "subs") != "subs":
        raise ModelError(f"{checkpoint.path} has parameterization {config['parameterization']!r}; masked diffusion needs 'subs'")
    model = config.get("model") or {}
    names = {
        "hidden_size": "hidden_dim",
        "length": "model_length",
        "cond_dim": "cond_dim",
        "n_blocks": "n_blocks",
        "n_heads": "n_heads",
    }
    settings = {new: model[old] for old, new in names.items() if old in model}
    return settings | ({"time_conditioning": config["time_conditioning"]} if "time_conditioning" in config else {})
