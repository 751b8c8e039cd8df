"""Text models by name: from a name to a loaded `fktext.texts.model.TextModel`.

A name is an embedded model, a folder (or a Lightning `.ckpt` file), an alias, a plugin's model or a hub id, tried in that order;
the local hub cache comes before the hub. torch and transformers are imported only when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import FktextError, ModelError, UsageError, unknown_name
from fktext.files.catalogue import catalogue
from fktext.models.config import SIMPLEX_FILES, defaults, no_weights, read_settings
from fktext.models.find import locate, plugin_entry
from fktext.models.tokenizer import load_tokenizer
from fktext.models.words import Words
from fktext.simplex.model import BLOCK, SimplexModel
from fktext.texts.model import TextModel

if TYPE_CHECKING:
    import torch

    from fktext.masked.denoiser import Network

DTYPES = ("float32", "bfloat16", "float16")
_REMASKING = ("remdm-cap", "remdm-rescale", "remdm-conf", "remdm-loop")
_CONFIDENCE = ("confidence", "confidence-maskgit-plus", "confidence-topk-margin", "confidence-entropy")
KERNELS = {
    "dit": ("ancestral", "first-hitting", *_REMASKING, *_CONFIDENCE),
    "sedd": ("sedd-analytic", "sedd-normalised", *_REMASKING, *_CONFIDENCE),
    "mlm": ("ancestral", "first-hitting", *_REMASKING, *_CONFIDENCE),
    "llada": ("ancestral", "first-hitting", *_REMASKING, *_CONFIDENCE),
    "dream": ("ancestral", "first-hitting", *_REMASKING, *_CONFIDENCE),
    "ssdlm": ("simplex-sampling", "simplex-even", "simplex-uneven"),
}


def load(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    offline: bool = False,
    length: int | None = None,
    device_map: str | None = None,
    chat: bool = False,
) -> TextModel:
    """Load a text model.

    Args:
        name: an embedded model, a folder, a Lightning `.ckpt`, an alias, a plugin's model or a hub id.
        device: where to put it, such as "cpu" or "cuda:0".
        dtype: of the weights, one of `DTYPES`.
        offline: when true, never touch a network.
        length: makes this the model's default length.
        device_map: "auto" spreads LLaDA or Dream over all GPUs and, where they are too small, the computer's memory, through
            accelerate; `device` is then where tokens are drawn.
        chat: put prompts into the model's chat template and return answers (see `fktext.texts.chat`).

    Raises:
        UsageError: an unknown name, device or dtype, a length the model does not take, or an option its family has no use for.
        ModelError: the files cannot be found, are damaged, contradict each other or are of no known family.
        PluginError: the model is a plugin's, and that is broken.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if device_map not in (None, "auto"):
        raise unknown_name("device map", str(device_map), ["auto"])
    import torch

    from fktext.batches import usable_device
    from fktext.files.weights import digest, weight_files

    place = usable_device(device)
    entry = plugin_entry(name)
    if entry is not None and entry.factory is not None:
        from fktext.plugins.entries import ModelContext

        if device_map or chat:
            raise UsageError(f"model {entry.qualified!r} is made by its plugin, which takes no device map or chat template")
        return entry.create(ModelContext(name, device, dtype, offline, length))
    path = locate(name, entry, offline)
    folder = path if path.is_dir() else path.parent
    files = weight_files(path)
    if not files:
        raise no_weights(path)
    settings, family = read_settings(path, files)
    if any(name in (entry.name, entry.source) and entry.family == "ssdlm" for entry in catalogue()):
        family = "ssdlm"  # also where its layers are missing: without them it would be taken for a plain RoBERTa
    if entry is not None and entry.family and entry.family != family:
        raise ModelError(f"model {entry.qualified!r}: its plugin says family {entry.family!r}, its files are of family {family!r}")
    if device_map and family not in ("llada", "dream"):
        raise UsageError(f"a device map is for LLaDA and Dream; model {name!r} is of family {family!r}: choose one device")
    if chat and family == "ssdlm":
        raise UsageError(f"model {name!r} has no chat template: SSD-LM continues texts")
    tokenizer = load_tokenizer(folder, family, offline)
    words = Words(tokenizer, folder, settings, family)
    denoiser = _denoiser(family, path, files, settings, words, getattr(torch, dtype), place, bool(device_map))
    words.check(denoiser.vocab_size, str(path))
    if family == "ssdlm":
        files = [*files, *(folder / layer for layer in SIMPLEX_FILES if (folder / layer).is_file())]
    own = defaults(settings, family, denoiser.max_length)
    own_length = length or own["length"]
    if not 1 < own_length <= denoiser.max_length:
        raise UsageError(f"length {own_length} is out of range: model {name!r} takes 2 to {denoiser.max_length} tokens")
    common: dict[str, Any] = {
        "name": name,
        "family": family,
        "denoiser": denoiser,
        "tokenizer": tokenizer,
        "digest": digest(files),
        "default_length": own_length,
        "default_steps": own["steps"],
        "kernels": KERNELS[family],
        "bos_id": words.bos,
        "end_id": words.end,
        "pad_id": words.pad,
        "closing_id": words.closing,
        "forbidden": words.forbidden(denoiser.mask_id, denoiser.vocab_size),
        "default_temperature": own["temperature"],
        "default_top_p": own["top_p"],
    }
    if family == "ssdlm":
        return SimplexModel(**common, block=words.section.get("block", BLOCK), start_id=words.start)
    if chat:
        from fktext.texts.chat import ChatModel, chat_template

        return ChatModel(**common, chat=chat_template(folder, name))
    return TextModel(**common)


def _denoiser(
    family: str,
    path: Path,
    files: list[Path],
    settings: Mapping[str, Any],
    words: Words,
    dtype: torch.dtype,
    device: torch.device,
    spread: bool,
) -> Network:
    if family == "ssdlm":
        from fktext.simplex import ssdlm

        return ssdlm.load(path, tied=words.tied).to(device, dtype)
    if family in ("dit", "sedd"):
        from fktext.files.weights import read_tensors
        from fktext.masked import dit, sedd

        if family == "sedd":
            settings = sedd.settings(settings, path)
        tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
        return dit.from_tensors(tensors, settings, path).eval().requires_grad_(False).to(device, dtype)
    if family == "mlm":
        from fktext.masked import mlm

        return mlm.load(path, words.mask).to(device, dtype)
    from fktext.masked import llm

    mask = settings.get("mask_token_id")
    if not isinstance(mask, int):
        raise ModelError(f"{path / 'config.json'} names no mask_token_id")
    kind = {"llada": llm.load_llada, "dream": llm.load_dream}[family]
    try:
        return kind(files, settings, mask, dtype, device, spread=spread)
    except (FktextError, MemoryError, OSError, RuntimeError):
        raise
    except Exception as error:  # what transformers' configurations raise is of many kinds
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"{path / 'config.json'} does not describe a network of family {family!r}: {line}") from error
