"""Text models by name: from a name to a loaded `fktext.texts.model.TextModel`.

A name is an embedded model, a folder (or a Lightning `.ckpt` file), an alias, a plugin's model or a hub id, tried in that order;
the local hub cache comes before the hub. torch and transformers are imported only when a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fktext.errors import ModelError, UsageError, unknown_name
from fktext.families import FAMILIES, Checkpoint, Family
from fktext.families.tokenizer import load_tokenizer
from fktext.families.words import Frame, Words
from fktext.models.find import family_of, locate, plugin_entry

if TYPE_CHECKING:
    from fktext.plugins.entries import ModelEntry
    from fktext.texts.model import Network, TextModel

DTYPES = ("float32", "bfloat16", "float16")


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

    place = usable_device(device)
    entry = plugin_entry(name)
    if entry is not None and entry.factory is not None:
        from fktext.plugins.entries import ModelContext

        if device_map or chat:
            raise UsageError(f"model {entry.qualified!r} is made by its plugin, which takes no device map or chat template")
        return entry.create(ModelContext(name, device, dtype, offline, length))
    checkpoint = Checkpoint.read(locate(name, entry, offline))
    family = family_of(name, checkpoint)
    _check_family(name, entry, family, spread=device_map is not None, chat=chat)
    words = Words(load_tokenizer(checkpoint.folder, family, offline), checkpoint.folder, checkpoint.section)
    frame = family.frame(words)
    network = family.network(checkpoint, words, getattr(torch, dtype), place, spread=device_map is not None)
    _check_vocabulary(checkpoint, family, words, network.vocab_size)
    return _model(name, checkpoint, family, words, frame, network, length=length, chat=chat)


def weighed(checkpoint: Checkpoint, family: Family) -> list[Path]:
    """List the files that a model's numbers are in, those beside the weights included."""
    return [*checkpoint.files, *(checkpoint.folder / name for name in family.layers if checkpoint.has(name))]


def _model(
    name: str,
    checkpoint: Checkpoint,
    family: Family,
    words: Words,
    frame: Frame,
    network: Network,
    *,
    length: int | None,
    chat: bool,
) -> TextModel:
    """Put the parts of a model together, with what a run takes that names nothing."""
    from fktext.files.weights import digest
    from fktext.texts.chat import Chat

    own = family.defaults(checkpoint, network.max_length)
    own_length = length or own["length"]
    if not 1 < own_length <= network.max_length:
        raise UsageError(f"length {own_length} is out of range: model {name!r} takes 2 to {network.max_length} tokens")
    return family.model(
        checkpoint,
        frame,
        name=name,
        family=family.name,
        denoiser=network,
        tokenizer=words.tokenizer,
        digest=digest(weighed(checkpoint, family)),
        default_length=own_length,
        default_steps=own["steps"],
        kernels=family.kernels,
        bos_id=frame.bos,
        end_id=frame.end,
        pad_id=frame.pad,
        closing_id=frame.closing,
        forbidden=tuple(sorted(family.forbidden(words, frame, network.mask_id, network.vocab_size))),
        default_temperature=own["temperature"],
        default_top_p=own["top_p"],
        chat=Chat.read(checkpoint.folder, name, words.tokenizer) if chat else None,
    )


def _check_family(name: str, entry: ModelEntry | None, family: Family, *, spread: bool, chat: bool) -> None:
    """Check that the family is the one a plugin says, and has a use for the options."""
    if entry is not None and entry.family and entry.family != family.name:
        raise ModelError(
            f"model {entry.qualified!r}: its plugin says family {entry.family!r}, its files are of family {family.name!r}"
        )
    if spread and not family.spreads:
        able = ", ".join(one.name for one in FAMILIES.values() if one.spreads)
        raise UsageError(f"a device map is for families {able}; model {name!r} is of family {family.name!r}: choose one device")
    if chat and not family.chats:
        raise UsageError(f"model {name!r} has no chat template: family {family.name!r} continues texts")


def _check_vocabulary(checkpoint: Checkpoint, family: Family, words: Words, vocab_size: int) -> None:
    """Check that tokenizer and network can belong together."""
    size = words.tokenizer.get_vocab_size()
    if not vocab_size - family.spare(vocab_size) <= size <= vocab_size:
        raise ModelError(
            f"{checkpoint.path}: the tokenizer has {size} tokens, which contradicts the network's vocabulary of {vocab_size}"
        )
