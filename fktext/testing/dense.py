"""Sample plainly, by T ancestral steps: every row, every step, every position, the whole vocabulary.

The law's oracle beside the listing of `fktext.testing.enumerable`, and the baseline of speed: it does what published code does,
a full forward and Gumbel-max draws over (rows, L, V) at each step, for the state and for each prediction of x0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fktext.masked.denoiser import Denoiser
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise


@dataclass
class DenseState:
    """(M, L) int64 tokens, and (M, S, L) the x0 predictions drawn beside the last step (S = 0 where none are)."""

    ids: Tensor
    x0: Tensor


class DenseAncestral:
    """Sample the law of `fktext.masked.process.MaskedDiffusion` with none of its economy.

    Args:
        denoiser, templates, particles, num_steps, decode, forbidden: as there.
        generator: of all noise; runs are not reproducible across batch sizes.
        wasteful_x0: predictions of x0 drawn at every step, scored or not, as published code does; 0 draws on demand.
        dtype: of the Gumbel noise; float32 as in published code cuts the tail of large vocabularies.
        cache: keep p(x0) while no token of the whole batch changes, as MDLM's `ddpm_cache` sampler does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        templates: Tensor,
        particles: int,
        num_steps: int,
        decode: Callable[[Tensor, Tensor], Sequence[Any]],
        *,
        generator: torch.Generator,
        forbidden: Sequence[int] = (),
        wasteful_x0: int = 0,
        dtype: torch.dtype = torch.float64,
        cache: bool = False,
    ) -> None:
        self.denoiser, self.num_steps, self.ledger = denoiser, num_steps, Ledger()
        self._templates, self._particles, self._decode = templates, particles, decode
        self._generator, self._wasteful_x0, self._dtype, self._cache = generator, wasteful_x0, dtype, cache
        self._forbidden = torch.tensor(sorted({denoiser.mask_id, *forbidden}), device=templates.device)

    def init(self, noise: Noise) -> DenseState:
        """Mask all positions but the clamped ones."""
        ids = self._templates.repeat_interleave(self._particles, 0)
        return DenseState(ids, ids[:, None, :].expand(-1, self._wasteful_x0, -1))

    @torch.inference_mode()
    def advance(self, state: DenseState, k: int, k_next: int, noise: Noise) -> DenseState:
        """Run one forward of all rows per step."""
        ids, x0, probs = state.ids, state.x0, None
        for step in range(k, k_next):
            time_, following = 1 - step / self.num_steps, 1 - (step + 1) / self.num_steps
            masked = ids == self.denoiser.mask_id
            probs = self._probs(ids, time_) if probs is None else probs
            if self._wasteful_x0:
                draws = [torch.where(masked, self._gumbel_max(probs), ids) for _ in range(self._wasteful_x0)]
                x0 = torch.stack(draws, 1)
            move = probs * (time_ - following)
            move[..., self.denoiser.mask_id] = following
            before, ids = ids, torch.where(masked, self._gumbel_max(move), ids)
            if not (self._cache and torch.equal(before, ids)):
                probs = None
        return DenseState(ids, x0)

    @torch.inference_mode()
    def predict(self, state: DenseState, k: int, noise: Noise, samples: int) -> tuple[Tensor, DenseState]:
        """Draw x0 given the state (one more forward), or return the state at the last step."""
        if k == self.num_steps:
            return state.ids, state
        if self._wasteful_x0:  # drawn beside the last step, from its parent state, as published code does
            return state.x0.flatten(0, 1), state
        masked = state.ids == self.denoiser.mask_id
        probs = self._probs(state.ids, 1 - k / self.num_steps)
        draws = [torch.where(masked, self._gumbel_max(probs), state.ids) for _ in range(samples)]
        return torch.stack(draws, 1).flatten(0, 1), state

    def decode(self, x0: Tensor) -> Sequence[Any]:
        """Return the texts of (R, L) ids; R is a multiple of M."""
        population = torch.arange(len(self._templates), device=x0.device).repeat_interleave(len(x0) // len(self._templates))
        return self._decode(x0, population)

    def _probs(self, ids: Tensor, time_: float) -> Tensor:
        """Return (M, L, V) p(x0 | x_t) in `dtype`."""
        self.ledger.denoiser_rows += len(ids)
        self.ledger.head_positions += ids.numel()
        t = torch.full((len(ids),), time_, device=ids.device)
        logits = self.denoiser.logits(self.denoiser.encode(ids, t).flatten(0, 1)).float()
        logits[:, self._forbidden] = -torch.inf
        return torch.softmax(logits, -1).to(self._dtype).reshape(*ids.shape, -1)

    def _gumbel_max(self, weights: Tensor) -> Tensor:
        """Draw in proportion to the weights: argmax of weights / Exponential(1)."""
        uniform = torch.rand(weights.shape, dtype=self._dtype, device=weights.device, generator=self._generator)
        return (weights / (1e-10 - (uniform + 1e-10).log())).argmax(-1)
