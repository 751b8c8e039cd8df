"""Text models: from a name, or a network in memory, to a loaded `fktext.texts.model.TextModel`.

A name is an embedded model, a folder (or a Lightning `.ckpt` file), an alias, a plugin's model or a hub id, tried in that order;
the local hub cache comes before the hub. torch and transformers are imported only when a model is loaded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from fktext.errors import ModelError, UsageError, unknown_name
from fktext.families import FAMILIES, Checkpoint, Family
from fktext.families.config import check
from fktext.families.tokenizer import load_tokenizer
from fktext.families.words import Words
from fktext.models.find import family_of, locate, plugin_entry

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fktext.plugins.entries import ModelEntry
    from fktext.texts.chat import Chat
    from fktext.texts.model import Network, TextModel

DTYPES = ("float32", "bfloat16", "float16")


def load(
    model: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Tokenizer | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    offline: bool = False,
    length: int | None = None,
    device_map: str | None = None,
    chat: bool = False,
) -> TextModel:
    """Load a text model.

    Args:
        model: an embedded model, a folder, a Lightning `.ckpt`, an alias, a plugin's model or a hub id; or a masked language model
            of transformers that is in memory, which is used as it is and put into evaluation mode.
        tokenizer: of a model in memory.
        device: where to put it, such as "cpu" or "cuda:0"; "auto" is CUDA where there is a GPU, else the CPU. A model in memory
            stays where it is.
        dtype: of the weights, one of `DTYPES`.
        offline: when true, never touch a network.
        length: makes this the model's default length.
        device_map: "auto" spreads a model of a large family (`Family.spreads`) over all GPUs and, where they are too small, the
            computer's memory, through accelerate; `device` is then where tokens are drawn.
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
    if not isinstance(model, str):
        if device != "auto" or device_map or chat or dtype != "float32":
            raise UsageError("a model in memory stays as it is: no device, dtype, device map or chat template can be asked for")
        return _held(model, tokenizer, length)
    if tokenizer is not None:
        raise UsageError(f"model {model!r} has a tokenizer of its own: give one only beside a model in memory")
    return _named(model, device, dtype, offline=offline, length=length, spread=device_map is not None, chat=chat)


def weighed(checkpoint: Checkpoint, family: Family) -> list[Path]:
    """List the files that a model's numbers are in, those beside the weights included."""
    return [*checkpoint.files, *(checkpoint.folder / name for name in family.layers if checkpoint.has(name))]


def _named(name: str, device: str, dtype: str, *, offline: bool, length: int | None, spread: bool, chat: bool) -> TextModel:
    """Find the files of a name, or the plugin that makes it, and load it."""
    import torch

    from fktext.batches import usable_device
    from fktext.files.weights import digest, read_json
    from fktext.texts.chat import Chat

    place = usable_device(device)
    entry = plugin_entry(name)
    if entry is not None and entry.factory is not None:
        from fktext.plugins.entries import ModelContext

        if spread or chat:
            raise UsageError(f"model {entry.qualified!r} is made by its plugin, which takes no device map or chat template")
        return entry.create(ModelContext(name, str(place), dtype, offline, length))
    checkpoint = Checkpoint.read(locate(name, entry, offline))
    family = family_of(name, checkpoint)
    _check_family(name, entry, family, spread=spread, chat=chat)
    names = read_json(checkpoint.folder / "tokenizer_config.json")
    words = Words(load_tokenizer(checkpoint.folder, family, offline), checkpoint.folder, checkpoint.section, names)
    network = family.network(checkpoint, words, getattr(torch, dtype), place, spread=spread)
    asked = Chat.read(checkpoint.folder, name, words.tokenizer, family.template) if chat else None
    return _model(name, checkpoint, family, words, network, digest(weighed(checkpoint, family)), length=length, chat=asked)


def _held(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | Tokenizer | None, length: int | None) -> TextModel:
    """Make a text model of a masked language model in memory, by what its config and its tokenizer say."""
    from tokenizers import Tokenizer

    from fktext.masked.mlm import MaskedLM

    kind = type(model).__name__
    if not kind.endswith("ForMaskedLM"):
        raise UsageError(f"load takes a name, or a masked language model of transformers with its tokenizer; got a {kind}")
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise UsageError(
            f"a model in memory needs its tokenizer, a fast one: load(model, tokenizer); got {type(tokenizer).__name__}"
        )
    own = Tokenizer.from_str(backend.to_str())  # a copy: the user's may pad
    own.no_padding()
    own.no_truncation()
    settings = model.config.to_dict()
    check(settings, Path("config"))
    name = str(model.config._name_or_path or kind)
    checkpoint, family = Checkpoint(Path(name), (), settings), FAMILIES["mlm"]
    words = Words(own, Path(name), checkpoint.section, getattr(tokenizer, "special_tokens_map", {}))
    network = MaskedLM(model, words.mask, freeze=False)
    return _model(name, checkpoint, family, words, network, _digest(model), length=length)


def _digest(model: PreTrainedModel) -> str:
    """Return the first 16 hex digits of the sha256 over the names and numbers of a network."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _model(
    name: str,
    checkpoint: Checkpoint,
    family: Family,
    words: Words,
    network: Network,
    digest: str,
    *,
    length: int | None,
    chat: Chat | None = None,
) -> TextModel:
    """Put the parts of a model together, with what a run takes that names nothing."""
    _check_vocabulary(checkpoint, family, words, network.vocab_size)
    frame = family.frame(words)
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
        digest=digest,
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
        chat=chat,
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
