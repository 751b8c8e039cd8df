"""Remask: let a masked diffusion take tokens back (ReMDM, Wang et al. 2025, arXiv 2503.00307).

With alpha_t the share of positions revealed at time t, a step from t to s turns

    a revealed position back into a mask with probability sigma,
    a masked one into a draw from p(x0 | x_t) with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),

which leaves the share at alpha_s for any sigma up to sigma_max = min(1, (1 - alpha_s) / alpha_t); sigma = 0 is the plain sampler.
The strategies differ in sigma. Here clamped positions are never remasked. (The published runs also take top_p = 0.9.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fktext.masked.process import MaskedDiffusion, MaskedState
from fktext.masked.sampling import draw_tokens
from fktext.smc import noise as streams
from fktext.smc.noise import Noise

STRATEGIES: Mapping[str, float] = {"cap": 0.008, "rescale": 0.015, "conf": 1.0, "loop": 0.02}
"""Published values of eta, by strategy: sigma is at most eta (cap); eta * sigma_max (rescale); eta * sigma_max shared out over the
positions (conf, see `shares`); or eta inside the loop and 0 outside (loop)."""

LOOP_FROM, LOOP_TO, LOOP_ALPHA = 0.55, 0.05, 0.9  # the loop lasts from t = 0.55 to 0.05 with nine tenths revealed


class Rates(NamedTuple):
    """Hold what a step from t to s does: revealed shares alpha_t and alpha_s, and sigma."""

    alpha_t: float
    alpha_s: float
    sigma: float

    def reveal(self, sigma: Tensor | float) -> Tensor | float:
        """Return the probability of revealing a masked position that would, revealed, be remasked with probability sigma."""
        return (self.alpha_s - (1 - sigma) * self.alpha_t) / (1 - self.alpha_t)


def rates(strategy: str, eta: float, t: float, s: float) -> Rates:
    """Return the rates of a step from time t to s < t; for "conf" sigma is the total to be shared out."""
    alpha_t, alpha_s = (_loop_alpha(t), _loop_alpha(s)) if strategy == "loop" else (1 - t, 1 - s)
    most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
    if strategy == "cap":
        sigma = min(eta, most)
    elif strategy == "loop":
        sigma = min(eta, most) if LOOP_TO < t <= LOOP_FROM else 0.0
    else:
        sigma = eta * most
    return Rates(alpha_t, alpha_s, sigma)


def _loop_alpha(t: float) -> float:
    """Return the revealed share of the looping schedule: up to LOOP_ALPHA, constant, up to 1."""
    if t > LOOP_FROM:
        return (1 - t) / (1 - LOOP_FROM) * LOOP_ALPHA
    return LOOP_ALPHA if t > LOOP_TO else 1 - t / LOOP_TO * (1 - LOOP_ALPHA)


def shares(confidence: Tensor) -> Tensor:
    """Share out the sigma of "conf": softmax over positions of minus the probability each token was drawn with.

    Args:
        confidence: (M, L) that probability; +inf where a position is masked or clamped and takes no part.

    Returns:
        (M, L) that sum to one; zero in rows where no position takes part.
    """
    weights = torch.softmax(-confidence, -1)
    return torch.where(confidence.isinf().all(-1, keepdim=True), torch.zeros_like(weights), weights)


@dataclass
class RemaskingState(MaskedState):
    """Hold M particles.

    Attributes:
        confidence: (M, L) p(x0) of each token when it was drawn, +inf at masked and clamped positions.
        free: (M, L) bool, positions that are not clamped.
    """

    confidence: Tensor
    free: Tensor


class ReMDM(MaskedDiffusion):
    """Reverse the noise with remasking: look at every position once a step, run the network where something is revealed.

    Args:
        strategy: one of `STRATEGIES`.
        eta: its parameter in [0, 1]; None takes the published one.
        settings: those of `MaskedDiffusion`.
    """

    def __init__(self, *args: Any, strategy: str, eta: float | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._strategy, self._eta = strategy, STRATEGIES[strategy] if eta is None else eta

    def start(self, ids: Tensor) -> RemaskingState:
        """Return the particles at step 0 with these (M, L) ids; what is not masked is clamped."""
        state = super().start(ids)
        confidence = torch.full(ids.shape, torch.inf, device=ids.device)
        return RemaskingState(ids, state.hidden, state.known, confidence, ids == self.denoiser.mask_id)

    @torch.inference_mode()
    def advance(self, state: MaskedState, k: int, k_next: int, noise: Noise) -> RemaskingState:
        """Take the reverse steps k + 1 .. k_next one by one."""
        assert isinstance(state, RemaskingState)
        with self.ledger.denoising():
            for step in range(k + 1, k_next + 1):
                state = self._step(state, step, noise)
            return state

    def _step(self, state: RemaskingState, step: int, noise: Noise) -> RemaskingState:
        before, after = 1 - (step - 1) / self.num_steps, 1 - step / self.num_steps
        rate = rates(self._strategy, self._eta, before, after)
        sigma = rate.sigma * shares(state.confidence) if self._strategy == "conf" else rate.sigma
        masked = state.ids == self.denoiser.mask_id
        # A position is masked or revealed, so one uniform serves for both decisions.
        uniform = noise.uniform(streams.REVEAL, step, torch.arange(masked.shape[1], device=masked.device))
        remasked = ~masked & state.free & (uniform < sigma)
        row, column = (masked & (uniform < rate.reveal(sigma))).nonzero(as_tuple=True)
        ids, confidence = state.ids.clone(), state.confidence.clone()
        if len(row):
            active = torch.unique(row)
            state = self._refresh(state, active, self._times[step - 1].expand(len(active)))
            tokens, probs = self._draw_weighed(
                state.hidden[row, column - state.ids.shape[1]],
                noise.uniform(streams.TOKEN, step, column, row)[:, None],
                row,
                column,
            )
            ids[row, column], confidence[row, column] = tokens, probs
        ids[remasked], confidence[remasked] = self.denoiser.mask_id, torch.inf
        return replace(state, ids=ids, confidence=confidence, known=state.known & (ids == state.ids).all(-1))

    def _draw_weighed(self, hidden: Tensor, uniforms: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a token for each of R positions, with its probability: (R, D), (R, 1) -> (R,), (R,)."""
        tokens, weights = [], []
        for part, logits in self._logits(hidden, row, column):
            probs = self._probs(logits)
            tokens.append(draw_tokens(probs, uniforms[part]))
            weights.append(probs.gather(1, tokens[-1]) / probs.sum(-1, keepdim=True))
        return torch.cat(tokens)[:, 0], torch.cat(weights)[:, 0]
