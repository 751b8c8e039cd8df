"""Any masked language model of transformers as a denoiser, split into its encoder and its vocabulary head.

Every such model computes `head(encoder(ids).last_hidden_state)`. The head is reached by the model's own `forward`, run on a copy of
the model whose encoder hands its `inputs_embeds` through unchanged. So nothing here depends on how a family names or shapes its
head; and the split is checked against the whole model when it is made.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fktext.errors import ModelError
from fktext.files.pretrained import pretrained


class _Through(nn.Module):
    """In the place of an encoder: what it is given as embeddings comes out as its last hidden state."""

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=inputs_embeds)


class MaskedLM(nn.Module):
    """A transformers model (`AutoModelForMaskedLM`-shaped) as a denoiser (`fktext.masked.denoiser.Denoiser`).

    No attention mask is passed: every position sees every position, padding included.

    Args:
        model: the whole model.
        mask_id: its mask token.
        freeze: take its parameters out of training; a model that is somebody else's keeps what it has.

    Raises:
        ModelError: the model does not split, or does not say how many positions it takes.
    """

    time_dependent = False

    def __init__(self, model: Any, mask_id: int, *, freeze: bool = True) -> None:
        super().__init__()
        self.model = model.eval()
        if freeze:
            self.model.requires_grad_(False)
        prefix = model.base_model_prefix
        if not isinstance(getattr(model, prefix, None), nn.Module):
            raise ModelError(f"{type(model).__name__} has no encoder of its own to split from its head")
        head = copy.copy(model)
        head._modules = {**model._modules, prefix: _Through()}
        # Kept out of the module tree: all but the stand-in is already there, and moves with `self.model`.
        self._head = (head,)
        self.mask_id = mask_id
        self.vocab_size = int(model.config.vocab_size)
        self.max_length = positions(model)
        self._check()

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        device: torch.device = self.model.device
        return device

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) tokens to (R, L, D); these networks read the noise level off the number of masks, so t is ignored."""
        hidden: Tensor = self.model.base_model(input_ids=ids)[0]
        return hidden

    def embeddings(self) -> Tensor:
        """Return (V, D); see `fktext.masked.denoiser.Embedding`."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def encode_embedded(self, embedded: Tensor, t: Tensor) -> Tensor:
        """Map (R, L, D) embeddings to (R, L, D)."""
        hidden: Tensor = self.model.base_model(inputs_embeds=embedded)[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) to (R, V) raw logits."""
        logits: Tensor = self._head[0](inputs_embeds=hidden[None])[0][0]
        return logits

    @torch.inference_mode()
    def _check(self) -> None:
        ids = torch.arange(4, device=self.device)[None] + self.vocab_size // 2
        whole = self.model(input_ids=ids)[0][0]
        try:
            parts = self.logits(self.encode(ids, torch.ones(1, device=self.device))[0])
        except Exception as error:
            raise ModelError(f"{type(self.model).__name__} does not split into encoder and head: {error}") from error
        if parts.shape != whole.shape or not torch.allclose(parts, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
            raise ModelError(
                f"{type(self.model).__name__} does not split into encoder and head: their logits differ from the model's"
            )
        if whole.shape[-1] != self.vocab_size or not 0 <= self.mask_id < self.vocab_size:
            raise ModelError(
                f"{type(self.model).__name__} has {whole.shape[-1]} logits, vocab_size {self.vocab_size} and mask token "
                f"{self.mask_id}: they do not fit"
            )


def positions(model: Any) -> int:
    """Tell how many positions the encoder takes at most."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        raise ModelError(f"the config of {type(model).__name__} names no max_position_embeddings")
    for name, module in model.base_model.named_modules():
        # RoBERTa and its kin count positions from after the padding index.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return min(limit, module.num_embeddings) - module.padding_idx - 1
    return limit


def load(folder: Path, mask_id: int) -> MaskedLM:
    """Load a folder in the layout of `save_pretrained`, in float32.

    Raises:
        ModelError: files are damaged, contradict each other or lack weights, or the model does not split.
    """
    from transformers import AutoModelForMaskedLM

    return MaskedLM(pretrained(folder, AutoModelForMaskedLM, "a masked language model"), mask_id)
