"""Decoders of models that write by blocks, by how sure the network is.

They are SDAR's (Cheng et al. 2025, arXiv 2510.06303), those of LLaDA2.0 and 2.1 (Bie et al. 2025, arXiv 2512.15745), and dllm's.
In a block of b tokens with T steps every step owes b / T of them. The surest guesses are kept, as many as are owed; with a
threshold all that are surer than that, if they are at least as many, so that easy blocks take fewer steps. LLaDA2.1 also replaces
tokens that it wrote before. As in `fktext.masked.confidence` guesses choose the positions: the texts' law has no name, and they are
not steered.

Two things of the published code are not done: to overwrite tokens, the prompt's among them, where more are owed than are masked;
and to draw the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fktext.masked.confidence import ConfidenceUnmasking, OrderedState
from fktext.masked.sampling import draw_tokens
from fktext.smc.noise import Noise


class BlockConfidence(ConfidenceUnmasking):
    """Reveal the surest positions of a block first; how sure a guess is, is its probability as it is drawn.

    Args:
        threshold: all guesses with a higher probability are kept, if they are as many as are owed; None keeps those owed.
        sequential: keep the leftmost in the place of the surest.
        settings: those of `MaskedDiffusion`.
    """

    def __init__(self, *args: Any, threshold: float | None = None, sequential: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._threshold, self._sequential = threshold, sequential

    def _quota(self, state: OrderedState, step: int) -> tuple[Tensor, Tensor]:
        """See `ConfidenceUnmasking`: a whole block's even share, also where a prompt's end leaves less to write."""
        masked = state.ids == self.denoiser.mask_id
        block = getattr(self.denoiser, "block", None)
        size = state.total if block is None else torch.full_like(state.total, block)
        owed = size // self.num_steps + (step - 1 < size % self.num_steps)
        return masked, torch.minimum(owed, masked.sum(-1))

    def _guess(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """See `ConfidenceUnmasking`."""
        if self._temperature == 0:
            probs = logits.float().index_fill(-1, self._forbidden, -torch.inf).softmax(-1)
            tokens = probs.argmax(-1)
        else:
            probs = self._probs(logits)
            tokens = draw_tokens(probs, uniforms)[:, 0]
        return tokens, (probs.gather(1, tokens[:, None])[:, 0] / probs.sum(-1)).double()

    def _kept(self, confidence: Tensor, quota: Tensor) -> Tensor:
        """See `ConfidenceUnmasking`."""
        if self._sequential:
            place = torch.arange(confidence.shape[1], device=confidence.device, dtype=confidence.dtype)
            return super()._kept(torch.where(confidence.isfinite(), -place, -torch.inf), quota)
        few = super()._kept(confidence, quota)
        if self._threshold is None:
            return few
        sure = confidence > self._threshold
        return torch.where((sure.sum(-1) >= quota)[:, None], sure, few)


@dataclass
class EditedState(OrderedState):
    """Hold M particles.

    Attributes:
        free: (M, L) bool what may be changed: all but what was clamped.
        idle: (M,) int64 in how many steps nothing was masked any more.
    """

    free: Tensor
    idle: Tensor


class BlockEditing(BlockConfidence):
    """Reveal by a threshold, and replace what was written before where the network is sure of another token (LLaDA2.1).

    A block is finished when nothing is masked and nothing was replaced, or with its steps: give some more than it has tokens.

    Args:
        editing: a token is replaced by a guess with a higher probability.
        most: steps without masks after which a block is finished.
        settings: those of `BlockConfidence`.
    """

    def __init__(self, *args: Any, editing: float = 0.9, most: int = 16, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._editing, self._most = editing, most

    def start(self, ids: Tensor) -> EditedState:
        """See `MaskedDiffusion`."""
        state = super().start(ids)
        free = ids == self.denoiser.mask_id
        return EditedState(state.ids, state.hidden, state.known, state.rank, state.total, free, torch.zeros_like(state.total))

    def _step(self, state: OrderedState, step: int, noise: Noise) -> EditedState:
        assert isinstance(state, EditedState)
        masked, quota = self._quota(state, step)
        unmasked = ~masked.any(-1)
        idle = state.idle + unmasked
        going = state.free.any(-1) & (idle <= self._most)
        active = going.nonzero()[:, 0]
        if not len(active):
            return replace(state, idle=idle)
        state = self._refresh(state, active, self._times[step - 1].expand(len(active)))
        guess, confidence = self._guesses(state, state.free & going[:, None], step, noise)
        kept = self._kept(confidence.masked_fill(~masked, -torch.inf), quota) & masked
        edited = state.free & ~masked & (confidence > self._editing) & (guess != state.ids)
        ids = torch.where(kept | edited, guess, state.ids)
        idle = idle + (unmasked & ~edited.any(-1)) * (self._most + 1)
        return replace(state, ids=ids, idle=idle, known=state.known & (ids == state.ids).all(-1))
