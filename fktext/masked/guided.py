"""Guide a masked diffusion: draw tokens that a learned value likes, and pay for it in the weights.

Which positions a step reveals is drawn as ever, whatever the tokens are. At those positions tokens come not from p but from

    q_i(v) = p_i(v) exp(f_iv) / Z_i,    f_iv = c (s_iv - sum_u p_i(u) s_iu), cut to [-MOST, MOST],

with scores s_iv of any origin. Temperature and nucleus are in p before it is tilted, so q is positive where p is and nowhere else,
and

    log p - log q = sum over the revealed positions of log Z_i - f_i,x_i

goes into the log-weight of the lineage (`fktext.smc.process.Proposing`). So any finite scores leave the law of the result as it
is, also old ones: they are asked for once per window, of the particle as it was at the last weighing. Good ones, which say how
log h changes with the token (`fktext.smc.lookahead`), make the weights vary less. Positions that stay masked add nothing to them.

Without the correction this is classifier guidance of discrete diffusion to first order, D-CBG (Nisonoff et al. 2024,
arXiv 2406.01572; Schiff et al. 2024, arXiv 2412.10193). The guided model is then a base of its own, and p(x) above is not aimed at.
The correction is that of twisted sequential Monte Carlo (Wu et al. 2023, arXiv 2306.17775), here with q on tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fktext.batches import fits
from fktext.errors import ModelError, UsageError
from fktext.masked.denoiser import Denoiser, Embedding
from fktext.masked.process import MaskedDiffusion, MaskedState
from fktext.masked.sampling import draw_tokens
from fktext.smc.noise import Noise
from fktext.smc.process import Features
from fktext.text import Text
from fktext.values.head import Head

MOST = 5.0  # nats that a token's odds are changed by: one draw then adds at most 2 * MOST to a log-weight


class Scores(Protocol):
    """What each token at each masked position is thought to add to the log-tilt, in two steps as a network and its head."""

    def slopes(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) ids at noise times t (R,) to (R, L, D), all that `scores` needs."""
        ...

    def scores(self, slopes: Tensor) -> Tensor:
        """Map (P, D) slopes of any positions to (P, V) scores in nats, finite; a constant added to a row changes nothing."""
        ...


class Gradient:
    """Take learned values to first order: s_iv = lambda <d value / d e_i, E_v - E_mask>, e_i the embedding of position i.

    Args:
        denoiser: the network; it takes embeddings in the place of tokens.
        values: estimates (M,) of the rewards from `Features`, differentiable (a `Head` is).
        weights: of the rewards.
        lam: lambda, in nats per unit of reward.

    Raises:
        UsageError: the network takes tokens alone.
    """

    def __init__(
        self, denoiser: Denoiser, values: Sequence[Callable[[Features], Tensor]], weights: Sequence[float], lam: float
    ) -> None:
        if not isinstance(denoiser, Embedding):
            kinds = "as MDLM's and masked language models do, not compiled"
            raise UsageError(f"guidance needs a network that takes embeddings, {kinds}; got {type(denoiser).__name__}")
        self.denoiser = denoiser
        self._values = [_differentiable(value) for value in values]
        self._weights, self._lam = list(weights), lam

    def slopes(self, ids: Tensor, t: Tensor) -> Tensor:
        """Run the network forward and backward: (R, L) ids at times (R,) -> (R, L, D) gradients of lambda * value."""
        with torch.inference_mode(False), torch.enable_grad():
            ids, t = ids.clone(), t.clone()  # tensors made in inference mode cannot be differentiated through
            embedded = self.denoiser.embeddings()[ids].detach().requires_grad_()
            unknown = (ids == self.denoiser.mask_id).float().mean(1)
            features = Features(self.denoiser.encode_embedded(embedded, t), unknown)
            total = torch.stack([weight * value(features) for weight, value in zip(self._weights, self._values, strict=True)])
            return torch.autograd.grad(self._lam * total.sum(), embedded)[0]

    def scores(self, slopes: Tensor) -> Tensor:
        """Map (P, D) gradients to (P, V)."""
        table = self.denoiser.embeddings()
        return (slopes @ (table - table[self.denoiser.mask_id]).T).float()


def _differentiable(value: Callable[[Features], Tensor]) -> Callable[[Features], Tensor]:
    """Return a value that keeps track of gradients; a head that is called does not."""
    return (lambda features: value.value(value.logit(features))) if isinstance(value, Head) else value


@dataclass
class GuidedState:
    """Hold M particles.

    Attributes:
        own: their state in the process that is guided.
        log_ratio: (M,) float64 log p - log q of all tokens drawn so far in the lineage, in nats; zero if it is not kept.
    """

    own: MaskedState
    log_ratio: Tensor

    @property
    def ids(self) -> Tensor:
        """Their tokens."""
        return self.own.ids


class Guided:
    """Draw tokens of a masked diffusion from q; see the head of this file.

    Args:
        process: what is guided: one that reveals by a clock of its own, as the kernels ancestral, first-hitting and any-order do.
        scores: what tokens are worth.
        strength: c; 0 draws from p, and 1 is right where scores are differences of log h.
        corrected: whether log p - log q goes into the weights. If not, this is D-CBG: the engine takes q for p.

    Raises:
        UsageError: the process decides otherwise what it reveals.
    """

    def __init__(self, process: Any, scores: Scores, strength: float, *, corrected: bool = True) -> None:
        if not isinstance(process, MaskedDiffusion) or type(process).advance is not MaskedDiffusion.advance:
            raise UsageError(
                "guidance goes with the kernels ancestral, first-hitting and any-order, and with texts that fit one window; "
                f"got {type(process).__name__}"
            )
        self.process, self.scores = process, scores
        self.ledger, self.num_steps = process.ledger, process.num_steps
        self._strength, self._corrected = strength, corrected

    def init(self, noise: Noise) -> GuidedState:
        """Mask all positions but the clamped ones."""
        own = self.process.init(noise)
        return GuidedState(own, torch.zeros(len(own.ids), dtype=torch.float64, device=own.ids.device))

    @torch.inference_mode()
    def advance(self, state: GuidedState, k: int, k_next: int, noise: Noise) -> GuidedState:
        """Reveal what falls into steps k + 1 .. k_next, by scores of the particles at step k."""
        window = _Window(self, state.own.ids, k)
        with self.ledger.denoising():
            own = self.process.reveal(state.own, k, k_next, noise, window.draw)
        return GuidedState(own, state.log_ratio + window.log_ratio if self._corrected else state.log_ratio)

    def log_ratio(self, state: GuidedState) -> Tensor:
        """Return (M,) log p - log q; see `fktext.smc.process.Proposing`."""
        return state.log_ratio

    def predict(self, state: GuidedState, k: int, noise: Noise, samples: int) -> tuple[Tensor, GuidedState]:
        """Guess x0 by p(x0 | x_t), which is not tilted; see `MaskedDiffusion.predict`."""
        x0, own = self.process.predict(state.own, k, noise, samples)
        return x0, replace(state, own=own)

    def features(self, state: GuidedState, k: int) -> tuple[Features, GuidedState]:
        """Return the network's hidden states; see `MaskedDiffusion.features`."""
        features, own = self.process.features(state.own, k)
        return features, replace(state, own=own)

    def decode(self, x0: Tensor) -> Sequence[Text]:
        """Return the texts of (R, L) ids."""
        return self.process.decode(x0)


class _Window:
    """Draw the tokens of one window, from step k on, and add up log p - log q, (M,) `log_ratio`."""

    def __init__(self, guided: Guided, ids: Tensor, k: int) -> None:
        self._guided, self._ids, self._time = guided, ids, guided.process._times[k]
        self.log_ratio = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
        self._slopes: Tensor | None = None
        self._place = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)  # of each particle among the slopes

    def draw(self, hidden: Tensor, uniforms: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Draw a token for each of R positions; see `fktext.masked.process.Draw`."""
        if self._slopes is None:  # a window's first rows are all that reveal anything in it
            rows = torch.unique(row)
            distinct, self._place[rows] = torch.unique(self._ids[rows], dim=0, return_inverse=True)
            self._slopes = self._ask(distinct)
        process, scores, tokens = self._guided.process, self._guided.scores, []
        for part, logits in process._logits(hidden, row, column):
            probs = process._probs(logits)
            found = scores.scores(self._slopes[self._place[row[part]], column[part]])
            log_factor = tilt(probs, found, self._guided._strength)
            tilted = probs * log_factor.exp()
            chosen = draw_tokens(tilted, uniforms[part])
            log_z = (tilted.sum(-1, dtype=torch.float64) / probs.sum(-1, dtype=torch.float64)).log()
            self.log_ratio.index_add_(0, row[part], log_z - log_factor.gather(1, chosen)[:, 0])
            tokens.append(chosen)
        return torch.cat(tokens)

    def _ask(self, ids: Tensor) -> Tensor:
        """Return the slopes of (R, L) rows, in pieces that memory holds."""
        whole = torch.cat([self._piece(part) for part in ids.split(self._guided.process._batch_size)])
        if not whole.isfinite().all():
            raise ModelError("the scores that guide are not finite: the learned value or the network's weights are damaged")
        return whole

    def _piece(self, ids: Tensor) -> Tensor:
        slopes = fits(lambda: self._guided.scores.slopes(ids, self._time.expand(len(ids)).float()), len(ids))
        if slopes is None:
            return torch.cat([self._piece(half) for half in ids.chunk(2)])
        self._guided.ledger.gradient_rows += len(ids)
        return slopes


def tilt(probs: Tensor, scores: Tensor, strength: float) -> Tensor:
    """Return log(q / p) up to log Z: strength * (scores - their mean under p), cut to [-MOST, MOST].

    Args:
        probs: (P, V) p, not necessarily normalised.
        scores: (P, V) finite.
        strength: c.

    Example:
        >>> tilt(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 90.0]]), 2.0)
        tensor([[ 2., -2.,  5.]])
    """
    mean = (probs * scores).sum(-1, keepdim=True) / probs.sum(-1, keepdim=True)
    return (strength * (scores - mean)).clamp(-MOST, MOST)
