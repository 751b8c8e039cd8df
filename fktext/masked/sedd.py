"""SEDD: a masked diffusion whose network gives scores, ratios of probabilities (Lou et al. 2024, arXiv 2310.16834).

Its network is MDLM's, told the noise level. At a masked position score_v estimates p_t(v) / p_t(mask), and in truth the scores sum
to 1 / (e^sigma - 1); a network's do not. That makes two kernels: the analytic one, SEDD's own, takes the scores as they are, so
that they also say how soon a position is revealed; the normalised one keeps only their proportions, p(x0), and reveals by the
schedule, which is `fktext.masked.process.MaskedDiffusion`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fktext.masked.dit import EPS
from fktext.masked.process import MaskedDiffusion, State
from fktext.masked.sampling import draw_tokens
from fktext.smc import noise as streams
from fktext.smc.noise import Noise


def sigma(t: float) -> float:
    """Return the total noise at time t in [0, 1], by the log-linear schedule."""
    return -math.log1p(-(1 - EPS) * t)


def log_scores(logits: Tensor, noise_level: float) -> Tensor:
    """Map (R, V) raw logits at masked positions, the mask's column last and without meaning, to (R, V - 1) float64 log score_v."""
    size = logits.shape[-1] - 1
    return logits[:, :-1].double() - math.log(math.expm1(noise_level)) - math.log(size)


def reveal_law(scores: Tensor, drop: float) -> Tensor:
    """Map (R, V - 1) log scores to the probability of each token once the noise level has dropped by `drop`.

    What is missing to one stays masked. Scores that are too large for a big step sum to more than one: then nothing does.
    """
    return math.expm1(drop) * scores.exp()


class AnalyticSEDD(MaskedDiffusion):
    """The analytic kernel ("Tweedie tau-leaping"): the network sees every unfinished row at every step; see `MaskedDiffusion`.

    The last step, to t = 0, reveals what is left in proportion to the scores.
    """

    @torch.inference_mode()
    def advance(self, state: State, k: int, k_next: int, noise: Noise) -> State:
        """Take the reverse steps k + 1 .. k_next one by one."""
        with self.ledger.denoising():
            for step in range(k + 1, k_next + 1):
                state = self._step(state, step, noise)
            return state

    def _step(self, state: State, step: int, noise: Noise) -> State:
        row, column = (state.ids == self.denoiser.mask_id).nonzero(as_tuple=True)
        if not len(row):
            return state
        before, after = sigma(1 - (step - 1) / self.num_steps), sigma(1 - step / self.num_steps)
        active = torch.unique(row)
        state = self._refresh(state, active, self._times[step - 1].expand(len(active)))
        when = noise.uniform(streams.REVEAL, step, column, row)
        what = noise.uniform(streams.TOKEN, step, column, row)
        ids = state.ids.clone()
        for part, logits in self._logits(state.hidden[row, column], row, column):
            total = reveal_law(log_scores(logits, before), before - after).sum(-1)
            shown = when[part] < total if step < self.num_steps else torch.ones_like(total, dtype=torch.bool)
            drawn = draw_tokens(self._probs(logits[shown]), what[part][shown, None])
            ids[row[part][shown], column[part][shown]] = drawn[:, 0]
        return replace(state, ids=ids, known=state.known & (ids == state.ids).all(-1))
