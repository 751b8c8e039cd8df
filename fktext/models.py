"""Text models by name: from a name to a loaded `fktext.texts.model.TextModel`.

A name is an embedded model, a folder (or a Lightning `.ckpt` file), an alias, a plugin's model or a hub id, tried in that order;
the local hub cache comes before the hub. torch and transformers are imported only when a model is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext import embedded
from fktext.errors import FktextError, ModelError, UsageError, unknown_name
from fktext.files import hub
from fktext.files.catalogue import catalogue
from fktext.texts.model import BLOCK, SimplexModel, TextModel

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from fktext.masked.denoiser import Network
    from fktext.plugins.entries import ModelEntry

DEFAULT = "tiny-mdlm"
DTYPES = ("float32", "bfloat16", "float16")


# Length and steps where the model's own config.json does not say; the first are those of the Feynman-Kac steering paper.
_DEFAULTS = {"dit": (128, 1000), "sedd": (128, 128), "mlm": (32, 64), "llada": (128, 128), "dream": (128, 128), "ssdlm": (50, 500)}
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
_SIMPLEX_TOP_P = 0.95  # the nucleus of the published SSD-LM's sampling projection
_DEEP = 256  # layers; only of a network that says it has more are the tensors counted
SIMPLEX_FILES = ("embed_sum_layer.pt", "timestep_layer.pt")  # what makes a RoBERTa folder an SSD-LM
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "README.md", *SIMPLEX_FILES)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TOKENIZERS = ("gpt2", "openai-community/gpt2")  # where GPT-2's tokenizer is, by its old name and its present one


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
    entry = _of_plugin(name)
    if entry is not None and entry.factory is not None:
        from fktext.plugins.entries import ModelContext

        if device_map or chat:
            raise UsageError(f"model {entry.qualified!r} is made by its plugin, which takes no device map or chat template")
        return entry.create(ModelContext(name, device, dtype, offline, length))
    path = _find(name, entry, offline)
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
    tokenizer = _tokenizer(folder, family, offline)
    words = _Words(tokenizer, folder, settings, family)
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


def find(name: str, *, offline: bool = False) -> Path:
    """Where the files of a model are, fetched from the hub if need be and allowed.

    Returns:
        A folder, or a weight file.

    Raises:
        UsageError: nobody knows the name, or a plugin makes the model, without files.
        ModelError: the hub is needed and cannot be reached, or `offline`.
        PluginError: the model is a plugin's, and that is broken.
    """
    return _find(name, _of_plugin(name), offline)


def pull(name: str, *, offline: bool = False) -> list[Path]:
    """Fetch everything a model needs into the local hub cache, so that it works without a network afterwards.

    Returns:
        Its folder (or weight file), and the file of its tokenizer where that is another repository's.

    Raises:
        UsageError, ModelError, PluginError: see `find`.
    """
    from fktext.files.weights import weight_files

    path = find(name, offline=offline)
    if not (files := weight_files(path)):
        raise no_weights(path)
    _, family = read_settings(path, files)
    tokenizer = _tokenizer_file(path if path.is_dir() else path.parent, family, offline)
    return [path, *([tokenizer] if tokenizer is not None and tokenizer.parent != path else [])]


def _of_plugin(name: str) -> ModelEntry | None:
    """The plugin's model of that name; None where the name is ours, a path or a hub id.

    Raises:
        UsageError: nobody knows the name.
        PluginError: the plugin is broken.
    """
    known = [entry.name for entry in catalogue()]
    if not name:
        raise UsageError("the model's name is empty: give a listed name (`fktext models`), a folder or a hub id")
    if name in known or Path(name).expanduser().exists() or HUB_ID.fullmatch(name):
        return None
    if name.startswith((".", "~", os.sep)) or name.endswith((".ckpt", ".safetensors", ".bin")):
        raise UsageError(f"model {name!r}: there is no such file or folder")
    from fktext.plugins import load_plugins

    return load_plugins().model(name, known)


def _find(name: str, entry: ModelEntry | None, offline: bool) -> Path:
    """See `find`; `entry` is the plugin's."""
    aliases = {entry.name: entry.source for entry in catalogue() if entry.source != "embedded"}
    if name in {entry.name for entry in catalogue()} - aliases.keys():
        return embedded.path(name)
    if entry is not None and entry.factory is not None:
        raise UsageError(f"model {entry.qualified!r} is made by its plugin: it has no files")
    repo = entry.source if entry is not None else aliases.get(name, name)
    if (path := Path(repo if entry is not None else name).expanduser()).exists():
        return path
    if not HUB_ID.fullmatch(repo):
        raise ModelError(f"model {name!r}: its plugin names {repo!r}, which is neither a folder that exists nor a hub id")
    if (folder := _cached(repo)) is not None:
        return folder
    if offline or hub.is_offline():
        known = "" if name == repo else f" ({repo})"
        raise ModelError(
            f"model {name!r}{known} is neither a folder nor in the local hub cache, and fktext is told to stay offline"
        )
    folder = hub.download(repo, _HUB_FILES)
    if not any(folder.glob("*.safetensors")):
        folder = hub.download(repo, ("*.bin", "*.ckpt"))
    return folder


def _cached(repo: str) -> Path | None:
    """A whole model in the local hub cache."""
    from fktext.files.weights import weight_files

    if (config := hub.cached(repo, "config.json")) is None:
        return None
    try:
        return config.parent if weight_files(config.parent) else None
    except ModelError:  # shards are missing: an interrupted download
        return None


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
    from fktext.model_section import check

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


def _denoiser(
    family: str,
    path: Path,
    files: list[Path],
    settings: Mapping[str, Any],
    words: _Words,
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


def _tokenizer_file(folder: Path, family: str, offline: bool) -> Path | None:
    """The model's tokenizer.json, fetched if need be and allowed; None where the folder has a tokenizer in older files."""
    if (own := folder / "tokenizer.json").is_file():
        return own
    if family not in ("dit", "sedd"):
        return None
    # The repositories of MDLM and SEDD leave their tokenizer to GPT-2's.
    file = next((found for repo in _TOKENIZERS if (found := hub.cached(repo, "tokenizer.json"))), None)
    if file is None and (offline or hub.is_offline()):
        raise ModelError(
            f"{folder} has no tokenizer.json, GPT-2's is not in the local hub cache, and fktext is told to stay offline: put "
            "GPT-2's tokenizer.json into the folder"
        )
    return file or hub.download(_TOKENIZERS[-1], ("tokenizer.json",)) / "tokenizer.json"


def _tokenizer(folder: Path, family: str, offline: bool) -> Tokenizer:
    """The model's tokenizer, without padding or truncation."""
    from tokenizers import Tokenizer

    file = _tokenizer_file(folder, family, offline)
    try:
        if file is not None:
            tokenizer = Tokenizer.from_file(str(file))
        else:
            import transformers

            from fktext.files.pretrained import quiet

            # Dream's tokenizer is Qwen2's under a class of its own, which would be remote code.
            kind = transformers.Qwen2TokenizerFast if family == "dream" else transformers.AutoTokenizer
            with quiet():
                tokenizer = kind.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers raises plain Exception, transformers many kinds
        raise ModelError(
            f"the tokenizer of {folder} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class _Words:
    """Which tokens of a model begin, end, pad and mask its sequences, and which it may never write."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any], family: str) -> None:
        from fktext.files.weights import read_json

        self._tokenizer = tokenizer
        self._folder = folder
        self._family = family
        self._names = read_json(folder / "tokenizer_config.json")
        self.section: dict[str, Any] = settings.get("fktext") or {}
        self.closing: int | None = None
        self.pad: int | None = None
        self.start: int | None = None
        if family == "ssdlm":
            self.start = self._first("bos_token", "<s>", "[CLS]")
            self.bos, self.end, self.pad = (self._named(key) for key in ("bos_token", "end_token", "pad_token"))
        elif family == "mlm" and not self.section:
            # As the tokenizer frames a sentence, such as [CLS] ... [SEP]; the end is fixed at the last position.
            frame = tokenizer.encode("").ids
            self.bos = frame[0] if frame else None
            self.end = self.closing = frame[-1] if len(frame) > 1 else None
        elif family in ("dit", "sedd") and not self.section:
            # SEDD was trained on texts without a first token.
            self.bos = self._first("bos_token", "<|endoftext|>", "[CLS]", "<s>") if family == "dit" else None
            self.end = self._first("eos_token", "<|endoftext|>", "[SEP]", "</s>")
        elif not self.section:
            frame = tokenizer.encode("").ids
            self.bos = frame[0] if frame else None
            self.end = self._first("eos_token")
            self.pad = self._first("pad_token")
        else:
            self.bos, self.end, self.pad = (self._named(key) for key in ("bos_token", "end_token", "pad_token"))

    @property
    def tied(self) -> bool:
        """Whether an SSD-LM takes RoBERTa's word embeddings in the place of an `embed_sum_layer.pt`."""
        return bool(self.section.get("tie_embed_sum", False))

    @property
    def mask(self) -> int:
        """The tokenizer's own mask token."""
        if (mask := self._first("mask_token", "[MASK]", "<mask>")) is None:
            raise ModelError(f"the tokenizer of {self._folder} has no mask token")
        return mask

    def check(self, vocab_size: int, source: str) -> None:
        """Whether tokenizer and network can belong together."""
        size = self._tokenizer.get_vocab_size()
        # Networks round their vocabulary up; MDLM's and SEDD's add exactly the mask.
        least = vocab_size - (1 if self._family in ("dit", "sedd") else vocab_size // 20)
        if not least <= size <= vocab_size:
            raise ModelError(
                f"{source}: the tokenizer has {size} tokens, which contradicts the network's vocabulary of {vocab_size}"
            )

    def forbidden(self, mask: int, vocab_size: int) -> tuple[int, ...]:
        """Sorted ids that p(x0) never gives mass."""
        if self._family == "ssdlm":
            return ()  # a simplex has all corners
        pieces = self._tokenizer.get_vocab(with_added_tokens=True).values()
        never = {mask, *(set(range(vocab_size)) - set(pieces))}
        if self._family == "mlm":
            special = {index for index, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
            never |= special - ({self.end, self.pad} if self.section else set())
        return tuple(sorted(never))

    def _named(self, key: str) -> int | None:
        """A token that config.json's `fktext` section names."""
        if (token := self.section.get(key)) is None:
            return None
        if (index := self._tokenizer.token_to_id(token)) is None:
            raise ModelError(f"{self._folder / 'config.json'} names {key} {token!r}, which its tokenizer does not have")
        return int(index)

    def _first(self, key: str, *known: str) -> int | None:
        """A token that tokenizer_config.json names, or the first of the well-known ones that the tokenizer has."""
        own = self._names.get(key)
        own = own.get("content") if isinstance(own, dict) else own
        found = (self._tokenizer.token_to_id(token) for token in ([own] if own else known))
        return next((int(index) for index in found if index is not None), None)
