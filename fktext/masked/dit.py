"""MDLM's network: a diffusion transformer (DiT) with adaptive layer norms and rotary positions, in plain PyTorch.

Parameter names are those of the published checkpoints (Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models",
arXiv 2406.07524; the architecture is Peebles & Xie 2023, arXiv 2212.09748), so that their tensors load by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fktext.errors import ModelError, one_line

if TYPE_CHECKING:
    from fktext.masked.cache import Past

Others = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

EPS = 1e-3  # the log-linear schedule's: alpha_t = 1 - (1 - EPS) t
PUBLISHED_LENGTH = 1024  # what MDLM was trained with; the one number that tensors cannot tell
_FREQUENCIES = 128  # sinusoids of the time embedding
_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|backbone\.)+")


class Rotary(nn.Module):
    """Rotary position tables (Su et al. 2021), rotate-half layout, always in float32."""

    inv_freq: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", self.frequencies(dim))

    @staticmethod
    def frequencies(dim: int, device: torch.device | str = "cpu") -> Tensor:
        """Return (dim / 2,) angular frequencies."""
        # Never on the device "meta" of a surrounding block, where arithmetic would first import torch._dynamo, for seconds.
        return 1.0 / 10_000.0 ** (torch.arange(0, dim, 2, device=device).float() / dim)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Return (length, dim) cosines and sines."""
        # From the formula, not from the buffer: a bfloat16 buffer would be 1 % off, radians at position 1000.
        frequencies = self.frequencies(2 * len(self.inv_freq), self.inv_freq.device)
        angles = torch.arange(length, device=frequencies.device)[:, None] * frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys (..., L, dim) by their positions."""
    first, second = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm in float32 with a weight and no bias; the result stays in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(x.float(), self.weight.shape) * self.weight.float()


class Embedding(nn.Module):
    """Token embeddings as one bare parameter, as the checkpoints name it."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, dim).uniform_(-0.035, 0.035))  # std 0.02

    def forward(self, ids: Tensor) -> Tensor:
        """Map (R, L) tokens to (R, L, D)."""
        return self.embedding[ids]


class TimeEmbedding(nn.Module):
    """The noise level as sinusoids (cosines first) through a small MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * _FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, sigma: Tensor) -> Tensor:
        """Map sigma (R,) to (R, C)."""
        k = torch.arange(_FREQUENCIES, device=sigma.device)
        angles = sigma.float()[:, None] * torch.exp(-math.log(10_000.0) * k / _FREQUENCIES)
        weight: Tensor = self.mlp[0].weight  # type: ignore[assignment]
        out: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(weight.dtype))
        return out


class Block(nn.Module):
    """One transformer block; the condition c gives shift, scale and gate of both halves."""

    def __init__(self, dim: int, heads: int, cond_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = LayerNorm(dim)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaLN_modulation = nn.Linear(cond_dim, 6 * dim)

    def forward(
        self, x: Tensor, c: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None = None, others: Others | None = None
    ) -> Tensor:
        """Add to the residual stream (R, L, D) in float32.

        Args:
            x: the stream.
            c: (R or 1, C) the condition.
            cos, sin: (L, D / heads) rotary tables.
            seen: (L, P + L) bool, which positions (columns) each one attends to; None for all.
            others: puts the keys and values of P earlier positions before those of the stream; None where there are none.
        """
        dtype = self.attn_qkv.weight.dtype
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        hidden = (self.norm1(x) * (1 + scale_attn) + shift_attn).to(dtype)
        x = x + gate_attn * self.attention(hidden, cos, sin, seen, others)
        hidden = (self.norm2(x) * (1 + scale_mlp) + shift_mlp).to(dtype)
        out: Tensor = x + gate_mlp * self.mlp(hidden)
        return out

    def attention(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None = None, others: Others | None = None
    ) -> Tensor:
        """Let every position see those of `seen`, or all: without a mask, the fast kernels stay eligible."""
        rows, length, dim = hidden.shape
        qkv = self.attn_qkv(hidden).view(rows, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        key = rotate(key, cos, sin)
        if others is not None:
            key, value = others(key, value)
        mixed = functional.scaled_dot_product_attention(rotate(query, cos, sin), key, value, attn_mask=seen)
        out: Tensor = self.attn_out(mixed.transpose(1, 2).reshape(rows, length, dim))
        return out


class OutputLayer(nn.Module):
    """The final modulated norm, and the vocabulary head, which the denoiser calls apart."""

    def __init__(self, dim: int, vocab_size: int, cond_dim: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm(dim)
        self.linear = nn.Linear(dim, vocab_size)
        self.adaLN_modulation = nn.Linear(cond_dim, 2 * dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return (R, L, D), what `linear` takes."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)
        out: Tensor = (self.norm_final(x) * (1 + scale) + shift).to(self.linear.weight.dtype)
        return out


class DiT(nn.Module):
    """The network as a denoiser (`fktext.masked.denoiser.Denoiser`); the mask is the last token of the vocabulary.

    Args:
        vocab_size: V, the mask included.
        hidden_dim: D.
        n_blocks, n_heads: depth, and attention heads per block.
        cond_dim: C, width of the time condition.
        model_length: most positions.
        time_conditioning: whether the network sees the noise level; if not it always sees sigma = 0.
        block_size: positions are in blocks of so many, and see their own block and those before it; None lets all see all.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int,
        n_blocks: int,
        n_heads: int,
        cond_dim: int,
        model_length: int = PUBLISHED_LENGTH,
        time_conditioning: bool = False,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.mask_id = vocab_size - 1
        self.max_length = model_length
        self.time_dependent = time_conditioning
        self.vocab_embed = Embedding(vocab_size, hidden_dim)
        self.sigma_map = TimeEmbedding(cond_dim)
        self.rotary_emb = Rotary(hidden_dim // n_heads)
        self.blocks = nn.ModuleList([Block(hidden_dim, n_heads, cond_dim) for _ in range(n_blocks)])
        self.output_layer = OutputLayer(hidden_dim, vocab_size, cond_dim)

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return self.vocab_embed.embedding.device

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) tokens at times t (R,) to (R, L, D); t is ignored without time conditioning."""
        return self.encode_embedded(self.vocab_embed(ids), t)

    def embeddings(self) -> Tensor:
        """Return (V, D); see `fktext.masked.denoiser.Embedding`."""
        return self.vocab_embed.embedding

    def encode_embedded(self, embedded: Tensor, t: Tensor) -> Tensor:
        """Map (R, L, D) embeddings at times t (R,) to (R, L, D)."""
        # One row of conditions serves all where sigma is always 0.
        sigma = -torch.log1p(-(1 - EPS) * t.double()).float() if self.time_dependent else torch.zeros(1, device=embedded.device)
        return self._run(embedded, sigma)

    def extend(self, ids: Tensor, past: Past) -> Tensor:
        """Encode whole blocks that follow finished ones; see `fktext.masked.cache.Extending`."""
        return self._run(self.vocab_embed(ids), torch.zeros(1, device=ids.device), past)

    def _run(self, embedded: Tensor, sigma: Tensor, past: Past | None = None) -> Tensor:
        """Map (R, L, D) embeddings at noise levels (R or 1,) to (R, L, D)."""
        c = functional.silu(self.sigma_map(sigma))
        before, length = past.length if past else 0, embedded.shape[1]
        cos, sin = (table[before:] for table in self.rotary_emb(before + length))
        # A single block sees itself and all before it: without a mask, the fast kernels stay eligible.
        seen = None if before and length == self.block_size else self._seen(before + length)
        seen = seen[before:] if seen is not None else None
        # The residual stream stays in float32 whatever the weights' dtype, as it does under autocast.
        x = embedded.float()
        for layer, block in enumerate(self.blocks):
            x = block(x, c, cos, sin, seen, partial(past.update, layer=layer) if past else None)
        out: Tensor = self.output_layer(x, c)
        return out

    def _seen(self, length: int) -> Tensor | None:
        """Return (L, L) bool, which positions see which: block-causal, or None where all see all."""
        if self.block_size is None or length <= self.block_size:
            return None
        block = torch.arange(length, device=self.device) // self.block_size
        return block[:, None] >= block

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) to (R, V) raw logits."""
        out: Tensor = self.output_layer.linear(hidden)
        return out


def from_tensors(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: object) -> DiT:
    """Build the network that a checkpoint holds.

    Args:
        tensors: the checkpoint's, under the published names with or without the prefixes `backbone.`, `module.`, `_orig_mod.`.
        settings: config.json's content, or {}. Sizes are read from the tensors, and any that `settings` names must agree;
            `model_length` and `time_conditioning`, which no tensor tells, default to the published model's; `block_size` to none.
        source: what the messages call the checkpoint.

    Raises:
        ModelError: a tensor is missing, unknown or of the wrong shape, or `settings` contradicts the tensors.
    """
    named = {_PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    try:
        (vocab_size, hidden_dim), cond_dim = named["vocab_embed.embedding"].shape, len(named["sigma_map.mlp.0.weight"])
        n_heads = hidden_dim // (2 * len(named["rotary_emb.inv_freq"]))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{source} does not hold MDLM's network: {error} is missing or has an unexpected shape") from error
    n_blocks = len({name.split(".")[1] for name in named if name.startswith("blocks.")})
    sizes = {"vocab_size": vocab_size, "hidden_dim": hidden_dim, "cond_dim": cond_dim, "n_blocks": n_blocks, "n_heads": n_heads}
    for name, size in sizes.items():
        if settings.get(name, size) != size:
            raise ModelError(f"{source} contradicts itself: config.json says {name} {settings[name]}, the tensors say {size}")
    length, live = settings.get("model_length", PUBLISHED_LENGTH), settings.get("time_conditioning", False)
    if not isinstance(length, int) or length < 2:
        raise ModelError(f"{source} has length {length!r} in its config.json, expected a whole number from 2")
    with torch.device("meta"):
        model = DiT(**sizes, model_length=length, time_conditioning=live, block_size=settings.get("block_size"))
    try:
        model.load_state_dict(named, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{source} does not hold MDLM's network: {one_line(error)}") from error
    if not torch.allclose(model.rotary_emb.inv_freq.float(), Rotary.frequencies(hidden_dim // n_heads), rtol=1e-2):
        raise ModelError(f"{source} has other rotary frequencies than base 10000")
    return model
