"""DiffusionGemma's network: a causal encoder that leaves keys and values, and a decoder that denoises a canvas after them.

Both are transformers' `DiffusionGemmaForBlockDiffusion`, which shares their weights. The decoder looks both ways on the canvas, and
at all that the encoder's layers keep; it reads their cache and never writes to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fktext.errors import ModelError
from fktext.files.pretrained import pretrained

ROWS = 8  # prefixes read at once: long ones are far larger than canvases


@dataclass(frozen=True)
class Prefix:
    """What the encoder leaves of U texts of a length.

    Attributes:
        cache: of transformers, never changed.
        length: of the texts, in tokens.
    """

    cache: Any
    length: int


class DiffusionGemma(nn.Module):
    """The network as `fktext.uniform.canvas.CanvasNetwork` has it.

    Args:
        model: transformers' `DiffusionGemmaForBlockDiffusion`.
        main: where tokens are drawn, if accelerate has spread the model over several devices.
    """

    mask_id = -1  # no token: it marks the places of a template that are to be written

    def __init__(self, model: Any, main: torch.device | None = None) -> None:
        super().__init__()
        self.main = main
        self.model = model.eval().requires_grad_(False)
        config = model.config.text_config
        self.canvas, self.width = int(model.config.canvas_length), int(config.hidden_size)
        self.vocab_size, self.max_length = int(config.vocab_size), int(config.max_position_embeddings)
        self._soft: Tensor | None = None
        # The decoder would take logits, V numbers a position, and make an embedding of them: it is given that in their place.
        model.model.decoder.self_conditioning.register_forward_pre_hook(
            lambda module, args: args if self._soft is None else (args[0], self._soft)
        )

    @property
    def device(self) -> torch.device:
        """Where its tensors live, or the first of them where they live in several places."""
        device: torch.device = self.model.device if self.main is None else self.main
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        dtype: torch.dtype = self.model.model.decoder.embed_tokens.weight.dtype
        return dtype

    def to(self, *args: Any, **options: Any) -> DiffusionGemma:
        """Move it, unless accelerate has spread it."""
        return self if self.main is not None else super().to(*args, **options)

    def prefix(self, ids: Tensor, before: tuple[Prefix, Tensor] | None = None) -> Prefix:
        """Read (U, n) prefixes; see `CanvasNetwork.prefix`."""
        caches = []
        for first in range(0, len(ids), ROWS):
            part = slice(first, first + ROWS)
            caches.append(self._read(ids[part], None if before is None else (before[0], before[1][part])))
        return Prefix(_joined(caches), ids.shape[1])

    def encode(self, canvas: Tensor, soft: Tensor, prefix: Prefix, which: Tensor) -> Tensor:
        """Denoise (R, C) canvases: (R, C, D) hidden states; see `CanvasNetwork.encode`."""
        place = torch.arange(prefix.length, prefix.length + canvas.shape[1], device=canvas.device)[None]
        self._soft = soft
        try:
            out = self.model.model.decoder(
                decoder_input_ids=canvas, past_key_values=_Rows(prefix.cache, which), decoder_position_ids=place
            )
        finally:
            self._soft = None
        hidden: Tensor = out.last_hidden_state.to(canvas.device)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) hidden states to (R, V) raw logits in float32, which a soft cap keeps within its bounds."""
        cap = self.model.final_logit_softcapping
        logits: Tensor = self.model.lm_head(hidden).to(hidden.device).float() / cap
        return logits.tanh_().mul_(cap)

    def embed(self, logits: Tensor) -> Tensor:
        """Map (R, V) raw logits to the (R, D) mean embedding of a token under their softmax."""
        embedding = self.model.model.decoder.embed_tokens
        weight = embedding.weight.to(logits.device)
        probs = logits.softmax(-1, dtype=torch.float32).to(weight.dtype)
        mean: Tensor = probs @ weight * embedding.embed_scale.to(logits.device, weight.dtype)
        return mean

    def _read(self, ids: Tensor, before: tuple[Prefix, Tensor] | None) -> Any:
        """Run the encoder on what of (U, n) prefixes is new: return a cache of them whole."""
        from transformers import DynamicCache

        if before is None:
            known, cache = 0, DynamicCache(config=self.model.config.text_config)
        else:
            prefix, which = before
            known, cache = prefix.length, _rows(prefix.cache, which)
        place = torch.arange(known, ids.shape[1], device=ids.device)[None]
        self.model.model.encoder(input_ids=ids[:, known:], past_key_values=cache, position_ids=place)
        return cache


class _Rows:
    """Rows of a cache, for reading: put together for one layer at a time."""

    is_compileable = False

    def __init__(self, cache: Any, which: Tensor) -> None:
        self.layers = [_Layer(layer, which) for layer in cache.layers]


class _Layer:
    """Rows of a layer's keys and values."""

    def __init__(self, layer: Any, which: Tensor) -> None:
        self._layer, self._which = layer, which

    def _of(self, tensor: Tensor) -> Tensor:
        """Select rows; where there is one for all, without a copy."""
        return tensor.expand(len(self._which), -1, -1, -1) if len(tensor) == 1 else tensor[self._which.to(tensor.device)]

    @property
    def keys(self) -> Tensor:
        """(R, heads, n, d)."""
        return self._of(self._layer.keys)

    @property
    def values(self) -> Tensor:
        """(R, heads, n, d)."""
        return self._of(self._layer.values)


def _copied(cache: Any) -> Any:
    """Return a cache whose layers can be changed without changing this one's."""
    other = copy(cache)
    other.layers = [copy(layer) for layer in cache.layers]
    return other


def _rows(cache: Any, which: Tensor) -> Any:
    """Return rows of a cache as one of its own."""
    other = _copied(cache)
    for layer in other.layers:
        layer.batch_select_indices(which.to(layer.keys.device))
    return other


def _joined(caches: Sequence[Any]) -> Any:
    """Put caches of the same length below each other."""
    if len(caches) == 1:
        return caches[0]
    first = _copied(caches[0])
    for place, layer in enumerate(first.layers):
        layer.keys = torch.cat([cache.layers[place].keys for cache in caches])
        layer.values = torch.cat([cache.layers[place].values for cache in caches])
    return first


def load(folder: Path, dtype: torch.dtype, device: torch.device, *, spread: bool = False) -> DiffusionGemma:
    """Load a folder in the layout of transformers' `save_pretrained`.

    Args:
        folder: config.json and weights.
        dtype, device: of the result.
        spread: over all GPUs, and memory of the computer where they are too small, by accelerate.

    Raises:
        ModelError: files are damaged or contradict each other, or the installed transformers does not know the class.
    """
    import transformers

    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        raise ModelError(
            f"{folder} is a DiffusionGemma, which transformers {transformers.__version__} does not know: install a later one "
            "(5.23 does)"
        )
    kind = transformers.DiffusionGemmaForBlockDiffusion
    model = pretrained(folder, kind, "a DiffusionGemma", dtype=dtype, spread=spread)
    return DiffusionGemma(model, device) if spread else DiffusionGemma(model.to(device))
