"""LLaDA and Dream as denoisers: transformers' Llama and Qwen2 classes with full attention, without remote code.

LLaDA (Nie et al. 2025, arXiv 2502.09992) is a Llama under other tensor names. Dream (Ye et al. 2025, arXiv 2508.15487) is a Qwen2
that kept the shift of the language model it was made from: its output at i - 1 predicts token i.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fktext.errors import ModelError
from fktext.files.weights import read_tensors


class Piece(NamedTuple):
    """A tensor of a file under the name that transformers has for it, or for what it is a part of: then `place` says which."""

    name: str
    tensor: Tensor
    place: tuple[Any, ...] | None = None


Translate = Callable[[str, Tensor], Iterable[Piece]]
_FLOAT32 = "e_score_correction_bias"  # what stays so whatever the weights are in: it decides which experts are asked
_LLADA_NAMES = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.up_proj\.": r"model.layers.\1.mlp.up_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.([qkv])_proj\.": r"model.layers.\1.self_attn.\2_proj.",
}
_QWEN2_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
)
# What Llama computes; a LLaDA checkpoint that says otherwise would load and be wrong.
_LLADA_IS_LLAMA = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "rope": True,
    "scale_logits": False,
}


class FullAttentionLM(nn.Module):
    """A causal LM of transformers run with full attention, as a denoiser (`fktext.masked.denoiser.Denoiser`).

    Args:
        model: `LlamaForCausalLM` or `Qwen2ForCausalLM`.
        mask_id: its mask token.
        shifted: whether output i - 1 predicts token i; `encode` undoes it.
        main: where tokens are drawn, if accelerate has spread the model over several devices.

    Raises:
        ModelError: attention turns out to be causal.
    """

    time_dependent = False

    def __init__(self, model: Any, mask_id: int, shifted: bool, main: torch.device | None = None) -> None:
        super().__init__()
        self.main = main
        self.model = model.eval().requires_grad_(False)
        self.mask_id = mask_id
        self.shifted = shifted
        self.vocab_size = int(model.config.vocab_size)
        self.max_length = int(model.config.max_position_embeddings)
        if not 0 <= mask_id < self.vocab_size:
            raise ModelError(f"mask token {mask_id} is outside the vocabulary of {self.vocab_size}")
        self._check()

    @property
    def device(self) -> torch.device:
        """Where its tensors live, or the first of them where they live in several places."""
        device: torch.device = self.model.device if self.main is None else self.main
        return device

    def to(self, *args: Any, **options: Any) -> FullAttentionLM:
        """Move it, unless accelerate has spread it."""
        return self if self.main is not None else super().to(*args, **options)

    def options(self, length: int, before: int | None = None) -> dict[str, Any]:
        """Return what the model of transformers is told beside `length` tokens, so that they attend as they should."""
        return {"use_cache": False, "is_causal": False}

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) tokens to (R, L, D); these networks read the noise level off the number of masks, so t is ignored."""
        hidden: Tensor = self.model.model(input_ids=ids, **self.options(ids.shape[1]))[0].to(ids.device)
        # The first position has nobody before it: the reference repeats its own output there.
        return torch.cat([hidden[:, :1], hidden[:, :-1]], 1) if self.shifted else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) to (R, V) raw logits."""
        logits: Tensor = self.model.lm_head(hidden).to(hidden.device)
        return logits

    @torch.inference_mode()
    def _check(self) -> None:
        # Versions of transformers differ in how they are told: the first position must notice a change of the last.
        ids = torch.full((2, 4), self.mask_id, device=self.device)
        ids[1, -1] = (self.mask_id + 1) % self.vocab_size
        hidden = self.encode(ids, torch.ones(2, device=self.device))
        if torch.equal(hidden[0, 0], hidden[1, 0]):
            raise ModelError(f"{type(self.model).__name__} of this version of transformers cannot be run with full attention")


def load(
    family: str,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    mask_id: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    spread: bool = False,
) -> FullAttentionLM:
    """Load LLaDA or Dream from its weight files.

    Args:
        family: "llada" or "dream".
        files: the shards.
        settings: config.json's content.
        mask_id: its mask token.
        dtype, device: of the result; no more than one shard is held beside it.
        spread: over all GPUs, and memory of the computer where they are too small, by accelerate.

    Raises:
        ModelError: files are damaged or contradict the settings; accelerate is not installed, or finds too little memory.
    """
    make, names, shifted = _FAMILIES[family]
    kind, config = make(settings)
    model = assemble(kind, config, files, renamed(names), dtype, device, spread=spread)
    return FullAttentionLM(model, mask_id, shifted, main=device if spread else None)


def _llada(settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Make the class and the configuration that LLaDA's settings ask for."""
    from transformers import LlamaConfig, LlamaForCausalLM

    for name, needed in _LLADA_IS_LLAMA.items():
        if settings.get(name, needed) != needed:
            raise ModelError(f"config.json has {name} {settings[name]!r}; LLaDA is run as a Llama, which needs {needed!r}")
    try:
        config = LlamaConfig(
            vocab_size=settings.get("embedding_size") or settings["vocab_size"],
            hidden_size=settings["d_model"],
            intermediate_size=settings.get("mlp_hidden_size") or settings["mlp_ratio"] * settings["d_model"],
            num_hidden_layers=settings["n_layers"],
            num_attention_heads=settings["n_heads"],
            num_key_value_heads=settings.get("n_kv_heads") or settings["n_heads"],
            max_position_embeddings=settings["max_sequence_length"],
            rms_norm_eps=settings["rms_norm_eps"],
            rope_theta=settings["rope_theta"],
            tie_word_embeddings=settings.get("weight_tying", False),
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    except KeyError as error:
        raise ModelError(f"config.json of a LLaDA model lacks {error}") from error
    return LlamaForCausalLM, config


def _dream(settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Make the class and the configuration that Dream's settings ask for."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    known = {name: settings[name] for name in _QWEN2_SETTINGS if name in settings}
    return Qwen2ForCausalLM, Qwen2Config(**known, use_sliding_window=False)


# How settings become transformers', patterns of tensors' names as transformers has them, and whether outputs are shifted.
_FAMILIES = {"llada": (_llada, _LLADA_NAMES, False), "dream": (_dream, {}, True)}


def renamed(names: Mapping[str, str]) -> Translate:
    """Return what gives whole tensors new names, by patterns and their replacements."""

    def translate(name: str, tensor: Tensor) -> Iterable[Piece]:
        for pattern, new in names.items():
            name = re.sub(pattern, new, name)
        return [Piece(name, tensor)]

    return translate


def assemble(
    kind: Any,
    config: Any,
    files: Sequence[Path],
    translate: Translate,
    dtype: torch.dtype,
    device: torch.device,
    *,
    spread: bool = False,
) -> Any:
    """Build a model around the tensors of its files, one shard at a time.

    Args:
        kind, config: a class of transformers for language models, and its configuration.
        files: the shards.
        translate: from a file's tensor to what it is of the model.
        dtype, device, spread: see `load`.

    Raises:
        ModelError: see `load`.
    """
    with torch.device("meta"):
        model = kind(config)
    expected = dict(model.state_dict())
    places = _places(model, dtype) if spread else {"": device}
    filled, whole = Counter[str](), dict[str, Tensor]()
    for file in files:
        part = {}
        for old, tensor in read_tensors(file).items():
            for piece in translate(old, tensor):
                name = piece.name
                wanted = _shape(expected, piece)
                if wanted is None:
                    raise ModelError(f"{file} holds {old!r}, which {kind.__name__} does not have")
                if piece.tensor.shape != wanted:
                    shape = tuple(piece.tensor.shape)
                    raise ModelError(f"{file}: {name} has shape {shape}, config.json asks for {tuple(wanted)}")
                filled[name] += piece.tensor.numel()
                own = torch.float32 if name.endswith(_FLOAT32) else dtype
                if piece.place is None:
                    part[name] = piece.tensor.to(_place(name, places), own)
                    continue
                if name not in whole:
                    whole[name] = torch.empty(expected[name].shape, dtype=own, device=_place(name, places))
                whole[name][piece.place] = piece.tensor.to(whole[name])
        model.load_state_dict(part, strict=False, assign=True)
    model.load_state_dict(whole, strict=False, assign=True)
    model.tie_weights()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if missing := sorted(name for name, tensor in expected.items() if filled[name] != tensor.numel() and name not in tied):
        raise ModelError(f"{files[0].parent} lacks weights of {kind.__name__}, such as {', '.join(missing[:3])}")
    _turn(model, config, files[0].parent, places)
    if spread:
        from accelerate import dispatch_model

        model = dispatch_model(model, places, main_device=device if device.type != "cpu" else None)
    return model


def _shape(expected: Mapping[str, Tensor], piece: Piece) -> torch.Size | None:
    """Return the shape that a piece has to have, None where the model has no such place."""
    if piece.name not in expected:
        return None
    try:
        return expected[piece.name].shape if piece.place is None else expected[piece.name][piece.place].shape
    except IndexError:
        return None


def _turn(model: Any, config: Any, folder: Path, places: Mapping[str, Any]) -> None:
    """Give a model its rotary frequencies: they are in no file, and stay in float32 whatever the dtype of the weights."""
    rotary = type(model.model.rotary_emb)(config=config)
    if not rotary.inv_freq.isfinite().all():
        raise ModelError(f"{folder / 'config.json'} makes rotary frequencies infinite: rope_theta and scaling must be above 0")
    model.model.rotary_emb = rotary.to(_place("model.rotary_emb", places))


def _places(model: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Ask accelerate where it would put each part of a model: prefix of a name -> device.

    Raises:
        ModelError: accelerate is not installed, or memory does not hold the model.
    """
    try:
        from accelerate import infer_auto_device_map
    except ImportError as error:
        raise ModelError(
            "a device map needs accelerate, which is not installed: pip install accelerate, or choose one device"
        ) from error
    places: dict[str, Any] = infer_auto_device_map(model, no_split_module_classes=list(model._no_split_modules), dtype=dtype)
    if "disk" in places.values():
        raise ModelError(f"the memory of all devices does not hold {type(model).__name__} in {str(dtype).removeprefix('torch.')}")
    return places


def _place(name: str, places: Mapping[str, Any]) -> Any:
    """Return the device of the longest prefix of a tensor's name."""
    prefixes = [prefix for prefix in places if not prefix or name == prefix or name.startswith(prefix + ".")]
    return places[max(prefixes, key=len)]
