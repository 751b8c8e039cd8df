"""Language models that write block after block, on transformers' own classes: SDAR, dllm's Qwen3 and LLaDA2.

SDAR (Cheng et al. 2025, arXiv 2510.06303) and dllm's models are a Qwen3, LLaDA2 (Bie et al. 2025, arXiv 2512.15745) is a GLM-4 with
experts under other names. Positions see all of their own block and of those before it. Outputs are not shifted: position i predicts
token i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fktext.errors import ModelError
from fktext.masked.llm import FullAttentionLM, Piece, Translate, assemble, renamed

if TYPE_CHECKING:
    from fktext.masked.cache import Past

# What config.json has to say: the defaults of transformers and of the published classes are those of other networks.
_NEEDED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
)
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
_OPTIONAL = ("hidden_act", "attention_bias", "tie_word_embeddings", *_ROTARY)
_EXPERTS = (
    "num_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "moe_intermediate_size",
    "first_k_dense_replace",
    "partial_rotary_factor",
)
_QWEN3_EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step")
_PARTS = (("num_experts_per_tok", "num_experts"), ("topk_group", "n_group"))  # of what there is, how many are chosen
# What GLM-4 computes; a LLaDA2 checkpoint that says otherwise would load and be wrong.
_LLADA2_IS_GLM = {
    "hidden_act": "silu",
    "moe_router_enable_expert_bias": True,
    "norm_head": False,
    "norm_softmax": False,
    "norm_topk_prob": True,
    "rope_scaling": None,
    "score_function": "sigmoid",
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_rmsnorm": True,
    "use_sliding_window": False,
    "using_split_qkv_in_self_attention": False,
}
_LLADA2_NAMES = {
    r"\bword_embeddings\.": "embed_tokens.",
    r"\battention\.dense\.": "self_attn.o_proj.",
    r"\battention\.query_layernorm\.": "self_attn.q_norm.",
    r"\battention\.key_layernorm\.": "self_attn.k_norm.",
    r"\bgate\.expert_bias$": "gate.e_score_correction_bias",
}
_ALIGNED = 16  # bytes: torch multiplies experts together only where their rows fill so many


class BlockCausalLM(FullAttentionLM):
    """A causal LM of transformers run with block-causal attention, as a denoiser; finished blocks can be remembered.

    Args:
        model: such as `Qwen3ForCausalLM`.
        mask_id: its mask token.
        block: tokens of a block.
        main: see `FullAttentionLM`.

    Raises:
        ModelError: attention turns out to be another, or the block does not fit.
    """

    def __init__(self, model: Any, mask_id: int, block: int, main: torch.device | None = None) -> None:
        self.block = block
        super().__init__(model, mask_id, shifted=False, main=main)

    def options(self, length: int, before: int | None = None) -> dict[str, Any]:
        """See `FullAttentionLM`.

        Args:
            length: tokens of the call.
            before: finished ones before them, whose keys and values it is given; None where it is given none.
        """
        position = torch.arange((before or 0) + length, device=self.device)
        options = {"use_cache": False, "is_causal": False, "position_ids": position[None, before or 0 :]}
        # A single block sees itself: without a mask, the fast kernels stay eligible.
        if before is not None or length > self.block:
            block = position // self.block
            options["attention_mask"] = (block[before or 0 :, None] >= block)[None, None]
        return options

    def extend(self, ids: Tensor, past: Past) -> Tensor:
        """Encode whole blocks that follow finished ones; see `fktext.masked.cache.Extending`."""
        hidden: Tensor = self.model.model(input_ids=ids, past_key_values=past, **self.options(ids.shape[1], past.length))[0]
        return hidden.to(ids.device)

    @torch.inference_mode()
    def _check(self) -> None:
        # The first position must notice a change of the last of its block, and none of the block after it.
        if not 0 < self.block <= self.max_length:
            raise ModelError(f"blocks of {self.block} tokens do not fit a network that takes {self.max_length}")
        ids = torch.full((3, min(2 * self.block, self.max_length)), self.mask_id, device=self.device)
        other = (self.mask_id + 1) % self.vocab_size
        ids[1, self.block - 1], ids[2, self.block :] = other, other
        first = self.encode(ids, torch.ones(3, device=self.device))[:, 0]
        if torch.equal(first[0], first[1]) or not torch.equal(first[0], first[2]):
            kind = type(self.model).__name__
            raise ModelError(f"{kind} of this version of transformers cannot be run with block-causal attention")


def load(
    kind: str,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    mask_id: int,
    block: int | None,
    dtype: torch.dtype,
    device: torch.device,
    *,
    spread: bool = False,
) -> FullAttentionLM:
    """Load SDAR, one of dllm's models or LLaDA2 from its weight files.

    Args:
        kind: "llama", "qwen2", "qwen3", "qwen3-moe" or "llada2".
        block: tokens of a block; None for a network that sees the whole text.
        files, settings, mask_id, dtype, device, spread: see `fktext.masked.llm.load`.

    Raises:
        ModelError: see there.
    """
    built, config, translate = _KINDS[kind](settings, dtype)
    model = assemble(built, config, files, translate, dtype, device, spread=spread)
    main = device if spread else None
    if block is None:
        return FullAttentionLM(model, mask_id, shifted=False, main=main)
    return BlockCausalLM(model, mask_id, block, main)


def _known(settings: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
    """Return the entries of config.json that say what the network is; some must be there."""
    rotary = "rope_theta" if settings.get("rope_parameters") is None else "rope_parameters"
    if absent := [name for name in (*needed, rotary) if settings.get(name) is None]:
        raise ModelError(f"config.json lacks {', '.join(absent)}, without which the network is not known")
    for part, whole in _PARTS:
        if part in needed and not 0 < settings[part] <= settings[whole]:
            raise ModelError(f"config.json has {part} {settings[part]}, expected 1 to its {whole}, {settings[whole]}")
    return {name: settings[name] for name in (*needed, *_OPTIONAL) if name in settings}


def _qwen3(settings: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, Any, Translate]:
    """Make the class and the configuration of a Qwen3; its tensors have transformers' names."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    if settings.get("use_sliding_window", False) is not False:
        raise ModelError("config.json has use_sliding_window true; only attention to all earlier blocks is known")
    return Qwen3ForCausalLM, Qwen3Config(**_known(settings, _NEEDED), use_sliding_window=False, **_NO_TOKENS), renamed({})


def _qwen2(settings: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, Any, Translate]:
    """Make the class and the configuration of a Qwen2, whose heads are as wide as the hidden size leaves them."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if settings.get("use_sliding_window", False) is not False:
        raise ModelError("config.json has use_sliding_window true; only attention to all earlier blocks is known")
    known = _known(settings, [name for name in _NEEDED if name != "head_dim"])
    known.pop("attention_bias", None)  # its queries, keys and values always have one
    return Qwen2ForCausalLM, Qwen2Config(**known, use_sliding_window=False, **_NO_TOKENS), renamed({})


def _llama(settings: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, Any, Translate]:
    """Make the class and the configuration of a Llama, whose heads are as wide as it says, or as the hidden size leaves them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    known = _known(settings, [name for name in _NEEDED if name != "head_dim"])
    own = {name: settings[name] for name in ("head_dim", "mlp_bias") if settings.get(name) is not None}
    return LlamaForCausalLM, LlamaConfig(**known, **own, **_NO_TOKENS), renamed({})


def _qwen3_moe(settings: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, Any, Translate]:
    """Make the class and the configuration of a Qwen3 with experts, whose files have a tensor for each of them."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    if settings.get("use_sliding_window", False) is not False:
        raise ModelError("config.json has use_sliding_window true; only attention to all earlier blocks is known")
    known = _known(settings, (*_NEEDED, *_QWEN3_EXPERTS))
    aligned = known["moe_intermediate_size"] * dtype.itemsize % _ALIGNED == 0
    own = {} if aligned else {"experts_implementation": "eager"}
    config = Qwen3MoeConfig(
        **known, mlp_only_layers=settings.get("mlp_only_layers") or [], use_sliding_window=False, **own, **_NO_TOKENS
    )
    return Qwen3MoeForCausalLM, config, _stacked(known["moe_intermediate_size"], renamed({}))


def _llada2(settings: Mapping[str, Any], dtype: torch.dtype) -> tuple[Any, Any, Translate]:
    """Make the class and the configuration of a GLM-4 with experts that LLaDA2's settings ask for."""
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    for name, needed in _LLADA2_IS_GLM.items():
        if settings.get(name, needed) != needed:
            raise ModelError(f"config.json has {name} {settings[name]!r}; LLaDA2 is run as a GLM-4, which needs {needed!r}")
    known = _known(settings, (*_NEEDED, *_EXPERTS))
    turned = settings["partial_rotary_factor"] * known["head_dim"]
    if settings.get("rotary_dim", turned) != turned:
        raise ModelError(f"config.json has rotary_dim {settings['rotary_dim']}; partial_rotary_factor and head_dim make {turned}")
    rope = {"rope_type": "default"} | {name: settings[name] for name in ("rope_theta", "partial_rotary_factor")}
    plain = {name: value for name, value in known.items() if name not in ("num_experts", "partial_rotary_factor", *_ROTARY)}
    aligned = known["moe_intermediate_size"] * dtype.itemsize % _ALIGNED == 0
    config = Glm4MoeConfig(
        **plain | {"rope_parameters": rope, "attention_bias": False},
        n_routed_experts=known["num_experts"],
        n_shared_experts=settings.get("num_shared_experts", 1),
        routed_scaling_factor=settings.get("routed_scaling_factor", 1.0),
        norm_topk_prob=True,
        use_qk_norm=True,
        num_mtp_layers=0,
        **({} if aligned else {"experts_implementation": "eager"}),
        **_NO_TOKENS,
    )
    heads, pairs = (known[name] * known["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    return Glm4MoeForCausalLM, config, _llada2_tensors(heads, pairs, known["moe_intermediate_size"])


def _llada2_tensors(heads: int, pairs: int, width: int) -> Translate:
    """Return what splits queries, keys and values, and stacks experts."""
    others, joined = _stacked(width, renamed(_LLADA2_NAMES)), "attention.query_key_value.weight"
    rows = {"q": slice(heads), "k": slice(heads, heads + pairs), "v": slice(heads + pairs, None)}

    def translate(name: str, tensor: Tensor) -> Iterable[Piece]:
        if not name.endswith(joined):
            return others(name, tensor)
        layer = name.removesuffix(joined)
        return [Piece(f"{layer}self_attn.{part}_proj.weight", tensor[row]) for part, row in rows.items()]

    return translate


def _stacked(width: int, plain: Translate) -> Translate:
    """Return what stacks experts of `width` hidden numbers, the gate's rows before those of `up`; `plain` does the rest."""
    halves = {"gate_proj.weight": slice(width), "up_proj.weight": slice(width, None)}

    def translate(name: str, tensor: Tensor) -> Iterable[Piece]:
        layer, _, rest = name.partition(".experts.")
        number, _, part = rest.partition(".")
        if not number.isdigit():
            return plain(name, tensor)
        if part in halves:
            return [Piece(f"{layer}.experts.gate_up_proj", tensor, (int(number), halves[part]))]
        return [Piece(f"{layer}.experts.{part.removesuffix('.weight')}", tensor, (int(number),))]

    return translate


_NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
_KINDS: Mapping[str, Callable[[Mapping[str, Any], torch.dtype], tuple[Any, Any, Translate]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3-moe": _qwen3_moe,
    "llada2": _llada2,
}
