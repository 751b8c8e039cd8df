"""Confidence-ordered unmasking: every step keeps the guesses that the network is surest of (LLaDA's and Dream's decoders, MaskGIT's
before them).

At each of T steps every masked position gets a token from p(x0 | x_t). LLaDA keeps those with the highest probability under the
network, as many at every step (Nie et al. 2025, arXiv 2502.09992, section 2.4, "low-confidence remasking"; Chang et al. 2022,
arXiv 2202.04200). Dream (Ye et al. 2025, arXiv 2508.15487) keeps the share 1 - s/t of those still masked on a grid of times from
1 to 0.001, and measures sureness by probability ("maskgit-plus"), by the margin between the two likeliest tokens ("topk-margin")
or by the entropy ("entropy"). That is a Markov chain, but not the reverse of the masking process: which positions are still
masked depends on what the network thinks of them, so a finished text does not follow the model's p(x), and the law it follows has
no name. Weights of finished texts (best-of-n) are right for that law; on the way, p(x0 | x_t) stands for positions revealed at
random and says nothing of how this decoder goes on. So `fktext.settings` refuses to steer it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fktext.masked.process import MaskedDiffusion, MaskedState
from fktext.masked.sampling import draw_tokens
from fktext.smc import noise as streams
from fktext.smc.noise import Noise

_LAST_TIME = 1e-3  # of Dream's grid


@dataclass
class OrderedState(MaskedState):
    """Hold M particles.

    Attributes:
        rank: (M, L) int64 how many positions before it were masked at step 0.
        total: (M,) int64 how many were masked in all.
    """

    rank: Tensor
    total: Tensor


class ConfidenceUnmasking(MaskedDiffusion):
    """Reveal the surest positions first.

    A temperature of 0 takes the likeliest token of every position, as LLaDA's published settings do: no chance is left then.

    Args:
        block: finish so many masked positions before the next ones begin, from left to right; None makes one block of all.
        measure: how sure a guess is: "probability" under the network before temperature and nucleus, with LLaDA's even pace; or
            one of Dream's three, of the probabilities that are drawn from, with Dream's pace and no blocks.
        settings: those of `MaskedDiffusion`; its `num_steps` are shared out evenly over the blocks.
    """

    def __init__(self, *args: Any, block: int | None = None, measure: str = "probability", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._block, self._measure = block, measure

    def start(self, ids: Tensor) -> OrderedState:
        """Return the particles at step 0 with these (M, L) ids; what is not masked is clamped."""
        state = super().start(ids)
        masked = (ids == self.denoiser.mask_id).long()
        total = masked.sum(-1)
        if self._block is not None and any(
            self.num_steps % math.ceil(size / self._block) for size in total.unique().tolist() if size
        ):
            raise ValueError(f"{self.num_steps} steps cannot be shared out over blocks of {self._block} of {total.max()} positions")
        return OrderedState(state.ids, state.hidden, state.known, masked.cumsum(-1) - masked, total)

    @torch.inference_mode()
    def advance(self, state: MaskedState, k: int, k_next: int, noise: Noise) -> OrderedState:
        """Take the steps k + 1 .. k_next one by one."""
        assert isinstance(state, OrderedState)
        with self.ledger.denoising():
            for step in range(k + 1, k_next + 1):
                state = self._step(state, step, noise)
            return state

    def _step(self, state: OrderedState, step: int, noise: Noise) -> OrderedState:
        masked, quota = self._quota(state, step)
        active = (quota > 0).nonzero()[:, 0]
        if not len(active):
            return state
        state = self._refresh(state, active, self._times[step - 1].expand(len(active)))
        guess, confidence = self._guesses(state, masked & (quota > 0)[:, None], step, noise)
        kept = self._kept(confidence, quota) & masked
        ids = torch.where(kept, guess, state.ids)
        return replace(state, ids=ids, known=state.known & (ids == state.ids).all(-1))

    def _guesses(self, state: OrderedState, places: Tensor, step: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Guess at some (M, L) places: (M, L) what a text would be, and how sure that is, -inf elsewhere."""
        row, column = places.nonzero(as_tuple=True)
        uniforms = noise.uniform(streams.TOKEN, step, column, row)[:, None]
        guess = state.ids.clone()
        confidence = torch.full(state.ids.shape, -torch.inf, dtype=torch.float64, device=guess.device)
        for part, logits in self._logits(state.hidden[row, column - state.ids.shape[1]], row, column):
            tokens, sure = self._guess(logits, uniforms[part])
            guess[row[part], column[part]], confidence[row[part], column[part]] = tokens, sure
        return guess, confidence

    def _kept(self, confidence: Tensor, quota: Tensor) -> Tensor:
        """Choose the surest: (M, L) and (M,) how many -> (M, L) bool."""
        order = confidence.argsort(stable=True, dim=-1, descending=True)
        place = torch.arange(order.shape[1], device=order.device).expand(order.shape)
        return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, place < quota[:, None])

    def _quota(self, state: OrderedState, step: int) -> tuple[Tensor, Tensor]:
        """Return (M, L) whether a position may be revealed in this step, (M,) how many are."""
        masked = state.ids == self.denoiser.mask_id
        if self._measure != "probability":
            t, s = (1 - (1 - _LAST_TIME) * done / self.num_steps for done in (step - 1, step))
            left = masked.sum(-1)
            return masked, left if step == self.num_steps else (left * (1 - s / t)).long()
        size = state.total.clamp(min=1) if self._block is None else torch.full_like(state.total, self._block)
        steps = self.num_steps // ((state.total + size - 1) // size).clamp(min=1)  # of a block
        block, inside = (step - 1) // steps, (step - 1) % steps
        # As many at every step; where that does not divide, the first steps take one more.
        here = torch.minimum(size, state.total - block * size)
        return masked & (state.rank // size[:, None] <= block[:, None]), here // steps + (inside < here % steps)

    def _guess(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, V) logits and (R, 1) uniforms to (R,) tokens and (R,) how sure they are."""
        if self._temperature == 0:
            probs = logits.index_fill(-1, self._forbidden, -torch.inf).double().softmax(-1)
            tokens = probs.argmax(-1)
        else:
            probs = self._probs(logits)
            tokens = draw_tokens(probs, uniforms)[:, 0]
        if self._measure == "probability":
            return tokens, torch.log_softmax(logits.double(), -1).gather(1, tokens[:, None])[:, 0]
        if self._measure == "topk-margin":
            first, second = probs.topk(2, -1).values.unbind(-1)
            return tokens, (first - second).double()
        if self._measure == "entropy":
            return tokens, torch.special.entr(probs.double()).sum(-1).neg()
        return tokens, probs.gather(1, tokens[:, None])[:, 0].double()
