"""Text models by name: from a name to a loaded `fktext.text_model.TextModel`.

A name is an embedded model, a folder (or a Lightning `.ckpt` file), an alias or a hub id, tried in that order; the local hub cache
comes before the hub. torch and transformers are imported only when a model is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fktext import embedded, hub
from fktext.errors import ModelError, UsageError, unknown_name
from fktext.text_model import BLOCK, SimplexModel, TextModel

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from fktext.masked.denoiser import Network

DEFAULT = "tiny-mdlm"
DTYPES = ("float32", "bfloat16", "float16")


class Entry(NamedTuple):
    """A model that fktext knows by name; `source` is "embedded" or a hub id."""

    name: str
    family: str
    source: str
    licence: str
    summary: str


_CATALOGUE = (
    Entry(
        "tiny-mdlm", "mlm", "embedded", "CC-BY-SA-4.0", "comes with fktext: short English sentences, 15 M parameters, for a laptop"
    ),
    Entry("mdlm-owt", "dit", "kuleshov-group/mdlm-owt", "Apache-2.0", "MDLM trained on OpenWebText, 170 M parameters, 1024 tokens"),
    Entry("mdlm-owt-noeos", "dit", "kuleshov-group/mdlm-noeos-owt", "Apache-2.0", "MDLM trained without end tokens at the edges"),
    Entry("mdlm-owt-fp32", "dit", "kuleshov-group/mdlm-no_flashattn-fp32-owt", "Apache-2.0", "mdlm-owt, the float32 variant"),
    Entry("sedd-small", "sedd", "louaaron/sedd-small", "MIT", "SEDD trained on OpenWebText, 170 M parameters, 1024 tokens"),
    Entry("sedd-medium", "sedd", "louaaron/sedd-medium", "MIT", "SEDD trained on OpenWebText, 424 M parameters, 1024 tokens"),
    Entry("llada-base", "llada", "GSAI-ML/LLaDA-8B-Base", "MIT", "LLaDA, 8 B parameters: 16 GB in bfloat16"),
    Entry("llada-instruct", "llada", "GSAI-ML/LLaDA-8B-Instruct", "MIT", "LLaDA after instruction tuning"),
    Entry("llada-1.5", "llada", "GSAI-ML/LLaDA-1.5", "MIT", "LLaDA after preference optimisation"),
    Entry("dream-base", "dream", "Dream-org/Dream-v0-Base-7B", "Apache-2.0", "Dream, 7 B parameters: 15 GB in bfloat16"),
    Entry("dream-instruct", "dream", "Dream-org/Dream-v0-Instruct-7B", "Apache-2.0", "Dream after instruction tuning"),
    Entry(
        "ssdlm",
        "ssdlm",
        "xhan77/ssdlm",
        "not stated",
        "SSD-LM: simplex diffusion on RoBERTa-large, 25 tokens at a time, 407 M parameters",
    ),
    Entry(
        "bert", "mlm", "google-bert/bert-base-uncased", "Apache-2.0", "BERT, 110 M parameters, 512 tokens; not trained to generate"
    ),
    Entry("roberta", "mlm", "FacebookAI/roberta-base", "MIT", "RoBERTa, 125 M parameters, 512 tokens; not trained to generate"),
    Entry(
        "modernbert", "mlm", "answerdotai/ModernBERT-base", "Apache-2.0", "ModernBERT, 149 M parameters; not trained to generate"
    ),
)
# Length and steps where the model's own config.json does not say; the first are those of the Feynman-Kac steering paper.
_DEFAULTS = {"dit": (128, 1000), "sedd": (128, 128), "mlm": (32, 64), "llada": (128, 128), "dream": (128, 128), "ssdlm": (50, 500)}
_REMASKING = ("remdm-cap", "remdm-rescale", "remdm-conf", "remdm-loop")
_KERNELS = {
    "dit": ("ancestral", *_REMASKING),
    "sedd": ("sedd-analytic", "sedd-normalised", *_REMASKING),
    "mlm": ("ancestral", *_REMASKING),
    "llada": ("ancestral", *_REMASKING),
    "dream": ("ancestral", *_REMASKING),
    "ssdlm": ("simplex-sampling", "simplex-even", "simplex-uneven"),
}
_SIMPLEX_TOP_P = 0.95  # the nucleus of the published SSD-LM's sampling projection
_SIMPLEX_FILES = ("embed_sum_layer.pt", "timestep_layer.pt")  # what makes a RoBERTa folder an SSD-LM
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", *_SIMPLEX_FILES)


def catalogue() -> list[Entry]:
    """The models known by a name of their own: the embedded ones and aliases of hub ids."""
    return list(_CATALOGUE)


def load(name: str, *, device: str = "cpu", dtype: str = "float32", offline: bool = False, length: int | None = None) -> TextModel:
    """Load a text model.

    Args:
        name: an embedded model, a folder, a Lightning `.ckpt`, an alias or a hub id.
        device: where to put it, such as "cpu" or "cuda:0".
        dtype: of the weights, one of `DTYPES`.
        offline: when true, never touch a network.
        length: makes this the model's default length.

    Raises:
        UsageError: an unknown name, device or dtype, or a length the model does not take.
        ModelError: the files cannot be found, are damaged, contradict each other or are of no known family.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    import torch

    from fktext.checkpoint_files import digest, weight_files

    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    path = find(name, offline=offline)
    folder = path if path.is_dir() else path.parent
    files = weight_files(path)
    if not files:
        raise ModelError(f"{path} holds no weights: looked for model.safetensors, pytorch_model.bin, their shards and *.ckpt")
    settings, family = _settings(path, files)
    if any(name in (entry.name, entry.source) and entry.family == "ssdlm" for entry in _CATALOGUE):
        family = "ssdlm"  # also where its layers are missing: without them it would be taken for a plain RoBERTa
    tokenizer = _tokenizer(folder, family, offline)
    words = _Words(tokenizer, folder, settings, family)
    denoiser = _denoiser(family, path, files, settings, words, getattr(torch, dtype), place)
    words.check(denoiser.vocab_size, str(path))
    if family == "ssdlm":
        files = [*files, *(folder / layer for layer in _SIMPLEX_FILES)]
    own_length, steps = _DEFAULTS[family]
    own_length = length or words.section.get("default_length", min(own_length, denoiser.max_length))
    if not 1 < own_length <= denoiser.max_length:
        raise UsageError(f"length {own_length} is out of range: model {name!r} takes 2 to {denoiser.max_length} tokens")
    common: dict[str, Any] = {
        "name": name,
        "family": family,
        "denoiser": denoiser,
        "tokenizer": tokenizer,
        "digest": digest(files),
        "default_length": own_length,
        "default_steps": words.section.get("default_steps", steps),
        "kernels": _KERNELS[family],
        "bos_id": words.bos,
        "end_id": words.end,
        "pad_id": words.pad,
        "closing_id": words.closing,
        "forbidden": words.forbidden(denoiser.mask_id, denoiser.vocab_size),
        "default_temperature": words.section.get("default_temperature", 1.0),
    }
    if family == "ssdlm":
        return SimplexModel(**common, default_top_p=_SIMPLEX_TOP_P, block=words.section.get("block", BLOCK), start_id=words.start)
    return TextModel(**common)


def find(name: str, *, offline: bool = False) -> Path:
    """Where the files of a model are, fetched from the hub if need be and allowed.

    Returns:
        A folder, or a weight file.

    Raises:
        UsageError: nobody knows the name.
        ModelError: the hub is needed and cannot be reached, or `offline`.
    """
    aliases = {entry.name: entry.source for entry in _CATALOGUE if entry.source != "embedded"}
    if name in {entry.name for entry in _CATALOGUE} - aliases.keys():
        return embedded.path(name)
    if (path := Path(name).expanduser()).exists():
        return path
    if name not in aliases and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        if name.startswith((".", "~", os.sep)) or name.endswith((".ckpt", ".safetensors", ".bin")):
            raise UsageError(f"model {name!r}: there is no such file or folder")
        raise unknown_name("model", name, [entry.name for entry in _CATALOGUE])
    repo = aliases.get(name, name)
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
    from fktext.checkpoint_files import weight_files

    if (config := hub.cached(repo, "config.json")) is None:
        return None
    try:
        return config.parent if weight_files(config.parent) else None
    except ModelError:  # shards are missing: an interrupted download
        return None


def _settings(path: Path, files: list[Path]) -> tuple[dict[str, Any], str]:
    """config.json's content (or a checkpoint's own settings under its names) and the family."""
    from fktext.checkpoint_files import Lightning, read_json, tensor_names

    settings = read_json(path / "config.json") if path.is_dir() else {}
    kind, architectures = settings.get("model_type"), settings.get("architectures") or []
    if files[0].suffix == ".ckpt":
        return settings or _lightning_settings(Lightning.read(files[0])), "dit"
    if kind in ("mdlm", "llada", "Dream"):
        return settings, {"mdlm": "dit", "llada": "llada", "Dream": "dream"}[kind]
    if "graph" in settings and "tokens" in settings:
        return settings, "sedd"
    if any(str(item).endswith("ForMaskedLM") for item in architectures):
        return settings, "ssdlm" if any((path / layer).is_file() for layer in _SIMPLEX_FILES) else "mlm"
    if not settings and any(item.endswith("vocab_embed.embedding") for item in tensor_names(files[0])):
        return settings, "dit"
    found = f"model_type {kind!r} and architectures {architectures}" if settings else "no config.json"
    raise ModelError(
        f"cannot tell how to run {path}: it has {found}. Looked for a "
        "config.json with model_type 'mdlm', 'llada' or 'Dream', an architecture that ends in ForMaskedLM, or SEDD's graph and "
        "tokens; without one, for "
        "MDLM's tensor names or a Lightning .ckpt"
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
) -> Network:
    if family == "ssdlm":
        from fktext.simplex import ssdlm

        return ssdlm.load(path).to(device, dtype)
    if family in ("dit", "sedd"):
        from fktext.checkpoint_files import read_tensors
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
    return {"llada": llm.load_llada, "dream": llm.load_dream}[family](files, settings, mask, dtype, device)


def _tokenizer(folder: Path, family: str, offline: bool) -> Tokenizer:
    """The model's tokenizer, without padding or truncation."""
    from tokenizers import Tokenizer

    file: Path | None = folder / "tokenizer.json"
    if family in ("dit", "sedd") and not (folder / "tokenizer.json").is_file():
        # The repositories of MDLM and SEDD leave their tokenizer to GPT-2's.
        file = hub.cached("gpt2", "tokenizer.json") or hub.cached("openai-community/gpt2", "tokenizer.json")
        if file is None and (offline or hub.is_offline()):
            raise ModelError(
                f"{folder} has no tokenizer.json, GPT-2's is not in the local hub cache, and fktext is told to stay offline: put "
                "GPT-2's tokenizer.json into the folder"
            )
        file = file or hub.download("openai-community/gpt2", ("tokenizer.json",)) / "tokenizer.json"
    try:
        if file is not None and file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            import transformers

            # Dream's tokenizer is Qwen2's under a class of its own, which would be remote code.
            kind = transformers.Qwen2TokenizerFast if family == "dream" else transformers.AutoTokenizer
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
        from fktext.checkpoint_files import read_json

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
