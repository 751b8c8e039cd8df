"""Sample uniform-state diffusion: noise puts random tokens in the place of masks, and every position may change at every step.

A token keeps its value up to time t with probability alpha_t and is otherwise uniform over all K tokens. The network gives p(v),
the law of a position's clean token given the *other* positions of x_t (leave-one-out). With x the token it holds in x_t and
r = alpha_t / alpha_s, a reverse step from t to s draws each position from

    q(v) ~ (r 1{v = x} + (1 - r) / K) (alpha_s p(v) + (1 - alpha_s) / K)

(Schiff et al. 2024, arXiv 2412.10193; Sahoo et al. 2025, arXiv 2506.10892). Multiplied out it is a mixture of staying, a draw from
p and a uniform token, and is drawn as one, with masses in float64: no array of positions and tokens is made but p itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from fktext.batches import check_memory
from fktext.masked.denoiser import Denoiser, encode
from fktext.masked.dit import EPS
from fktext.masked.process import CPU_ELEMENTS, HEAD_ELEMENTS
from fktext.masked.sampling import draw_tokens, token_probs
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.smc.process import Features
from fktext.text import Text


def alpha(t: float) -> float:
    """Return the probability that a token keeps its value up to time t in [0, 1], by the log-linear schedule."""
    return 1 - (1 - EPS) * t


class Routes(NamedTuple):
    """Ways to a position's next token, as masses that are not normalised.

    Attributes:
        stay: (R,) float64, of keeping the token.
        draw: of drawing from p, which may give the same token; one for all positions, or (R,) float64.
        uniform: of drawing any token, likewise.
    """

    stay: Tensor
    draw: Tensor | float
    uniform: Tensor | float

    @property
    def total(self) -> Tensor:
        """(R,) float64, what the masses sum to."""
        return self.stay + self.draw + self.uniform


def routes(here: Tensor, size: int, before: float, after: float) -> Routes:
    """Split the posterior of the uniform-state kernel into its three ways, given a leave-one-out network's p.

    Args:
        here: (R,) float64, p of the token that each position holds.
        size: K, tokens in all.
        before: alpha_t of the state.
        after: alpha_s of the next one, not smaller; 1 for clean tokens.
    """
    ratio, other = before / after, (1 - after) / size
    return Routes(ratio * (after * here + other), (1 - ratio) / size * after, (1 - ratio) * other)


def renewed(here: Tensor, size: int, before: float, after: float, eta: float) -> Routes:
    """Split the kernel that with a probability 1 - kappa puts fresh noise on a clean token in the place of a step.

    kappa = max(0, 1 - sigma / (1 - alpha_s)) with sigma = min(eta, (1 - alpha_s) / alpha_t), and 1 at the end: what DUO's code
    calls a psi-sampler, its rate "max-capped". The clean token is one of the step to alpha = 1; the noise is that of alpha_s.

    Args:
        here, size, before, after: see `routes`.
        eta: cap of sigma; 0 leaves the step as it is.
    """
    step = routes(here, size, before, after)
    if not eta or after == 1:
        return step
    clean, lost = routes(here, size, before, 1.0), 1 - after
    kappa = max(0.0, 1 - min(eta, lost / before) / lost)
    old, new = kappa / step.total, (1 - kappa) * after / clean.total
    return Routes(old * step.stay + new * clean.stay, old * step.draw + new * clean.draw, old * step.uniform + (1 - kappa) * lost)


def take(masses: Routes, tokens: Tensor, probs: Tensor, which: Tensor, what: Tensor) -> Tensor:
    """Draw what follows (R,) tokens, (R, S), given (R, V) p, normalised or not.

    Args:
        masses: of the ways.
        tokens, probs: see above.
        which, what: (R, S) uniforms that choose the way and the token.
    """
    stay, target = masses.stay[:, None], which * masses.total[:, None]
    # "<=", so that rounding never gives a way of mass zero: at the last step there are no uniform tokens.
    other = torch.where(target <= (masses.stay + masses.draw)[:, None], draw_tokens(probs, what), anything(what, probs.shape[1]))
    return torch.where(target < stay, tokens[:, None], other)


def conditional(probs: Tensor, alpha: float) -> Tensor:
    """Return the law of a position's noisy token given all the others, alpha p + (1 - alpha) / K, (R, V) float64.

    Args:
        probs: (R, V) p of a leave-one-out network, normalised or not.
        alpha: of the noise level.
    """
    probs = probs.double()
    return alpha * probs / probs.sum(-1, keepdim=True) + (1 - alpha) / probs.shape[1]


def anything(uniforms: Tensor, size: int) -> Tensor:
    """Choose among `size` tokens evenly."""
    return (uniforms * size).long()


def uniforms_of(noise: Noise, stream: Tensor | int, step: int, size: int) -> Tensor:
    """Draw (M, S, size) uniforms of all particles, for each of S streams."""
    rows = torch.arange(len(noise.key), device=noise.key.device)[:, None, None]
    position = torch.arange(size, device=rows.device)
    stream = stream if isinstance(stream, Tensor) else torch.full((1,), stream, device=rows.device)
    return noise.uniform(stream[:, None], step, position, rows)


class Head(Protocol):
    """What of a network gives logits."""

    vocab_size: int

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) hidden states of any positions to (R, V) raw logits."""
        ...


def heads(network: Head, hidden: Tensor, ledger: Ledger) -> Iterator[tuple[slice, Tensor]]:
    """Run the head on a bounded number of positions at a time: which of the (R, D), and their (R', V) logits."""
    ledger.head_positions += len(hidden)
    most = CPU_ELEMENTS if hidden.device.type == "cpu" else HEAD_ELEMENTS
    size = max(1, most // network.vocab_size)
    for first in range(0, len(hidden), size):
        part = slice(first, min(first + size, len(hidden)))
        yield part, network.logits(hidden[part])


@dataclass
class UniformState:
    """Hold M particles.

    Attributes:
        ids: (M, L) int64 tokens.
        hidden: (M, L, D) what the network last said, or (M, 0, 0) before it spoke of `ids`.
        seen: (M,) int64, the step at which it said so, -1 before.
    """

    ids: Tensor
    hidden: Tensor
    seen: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Self:
        """Return particles that the network has not seen."""
        return cls(ids, ids.new_empty((len(ids), 0, 0), dtype=torch.float32), torch.full_like(ids[:, 0], -1))

    def forget(self) -> Self:
        """Return the particles without what the network said of them."""
        return type(self).of(self.ids)


class UniformDiffusion:
    """Reverse the noise of a uniform-state language model over `num_steps` steps, at each of which the network sees every row.

    Clamped positions (a prompt) are shown clean to the network at every step and never drawn. The model was trained with noise
    there too, so this approximates its law given the prompt. The clamped chain is the base law, and is steered exactly.

    With `corrections` every step but the last is followed by as many updates of Gibbs sampling at its noise level: one position,
    chosen at random, gets a token from its law given all the others (`conditional`). Where the network is right and p is as it says
    (temperature and top_p 1) that leaves the law of x_s as it is, because which position is chosen does not depend on tokens; it
    mends some of what steps that draw all positions at once get wrong. Each update costs a network call.

    Args:
        denoiser: network and vocabulary head; its `encode` is told the noise time.
        templates: (B, L) int64, the clamped tokens of each population, `denoiser.mask_id` (no token) elsewhere.
        particles: N; particle m belongs to population m // N.
        num_steps: T.
        decode: (R, L) finished ids and (R,) population indices -> R texts.
        forbidden: token ids that p never produces. They stay states of the noise, and none is left at the end.
        temperature, top_p: applied to p.
        batch_size: most rows per network call; halved where memory does not hold them.
        times: T + 1 noise times, falling from 1 to 0; T equal steps where none are given.
        corrections: see above.
        eta: how much is noised anew on the way; see `renewed`.
        greedy_tail: take the likeliest token of p everywhere at the last step, as DUO's published results of few steps do; texts
            follow no law of the model then.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        templates: Tensor,
        particles: int,
        num_steps: int,
        decode: Callable[[Tensor, Tensor], Sequence[Text]],
        *,
        forbidden: Sequence[int] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 256,
        times: Sequence[float] | None = None,
        corrections: int = 0,
        eta: float = 0.0,
        greedy_tail: bool = False,
    ) -> None:
        self.denoiser = denoiser
        self.num_steps = num_steps
        self.ledger = Ledger()
        self._templates = templates
        self._particles = particles
        self._decode = decode
        self._forbidden = torch.tensor(sorted(set(forbidden)), dtype=torch.int64, device=templates.device)
        self._temperature, self._top_p = temperature, top_p
        self._batch_size = batch_size
        self._times = [1 - k / num_steps for k in range(num_steps + 1)] if times is None else list(times)
        self._corrections, self._eta, self._greedy_tail = corrections, eta, greedy_tail

    def init(self, noise: Noise) -> UniformState:
        """Draw a uniform token at all positions but the clamped ones."""
        ids = self._templates.repeat_interleave(self._particles, 0)
        position = torch.arange(ids.shape[1], device=ids.device)
        drawn = anything(noise.uniform(streams.TOKEN, 0, position), self.denoiser.vocab_size)
        return UniformState.of(torch.where(ids == self.denoiser.mask_id, drawn, ids))

    @torch.inference_mode()
    def advance(self, state: UniformState, k: int, k_next: int, noise: Noise) -> UniformState:
        """Take the reverse steps k + 1 .. k_next one by one."""
        with self.ledger.denoising():
            for step in range(k, k_next):
                state = self._look(state, step)
                greedy = self._greedy_tail and step + 1 == self.num_steps
                ids = self._draw(state, step, step + 1, self._uniforms(noise, streams.TOKEN, step + 1), greedy=greedy)
                state = UniformState.of(ids[:, 0])
                for number in range(self._corrections if step + 1 < self.num_steps else 0):
                    state = self._correct(state, step + 1, number, noise)
            return state

    @torch.inference_mode()
    def predict(self, state: UniformState, k: int, noise: Noise, samples: int) -> tuple[Tensor, UniformState]:
        """Draw x0 ~ p(x0 | x_t), every position on its own: the kernel's own step to time 0; at the last step x0 is the state.

        Returns:
            (M * samples, L) int64, particle-major ((M, L) at the last step); and the state, with the network's output kept.
        """
        if k == self.num_steps:
            return state.ids, state
        with self.ledger.denoising():
            state = self._look(state, k)
            draws = torch.arange(streams.X0, streams.X0 + samples, device=state.ids.device)
            x0 = self._draw(state, k, self.num_steps, self._uniforms(noise, draws, k))
            return x0.flatten(0, 1), state

    @torch.inference_mode()
    def features(self, state: UniformState, k: int) -> tuple[Features, UniformState]:
        """Return the network's hidden states of all particles; see `fktext.smc.process.Featured`.

        Of the positions that are not clamped as many are unknown as the noise has replaced, on average.
        """
        with self.ledger.denoising():
            state = self._look(state, k)
            free = (self._templates == self.denoiser.mask_id).float().mean(1).repeat_interleave(self._particles)
            return Features(state.hidden, free * (1 - alpha(self._times[k]))), state

    def noised(self, ids: Tensor, free: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Replace free positions by random tokens, each row at a time of its own; see `fktext.values.fit.Noising`.

        Returns:
            (n, L) ids, (n,) noise times, stratified over (0, 1), and the share of positions that is unknown then.
        """
        size = len(ids)
        t = (torch.randperm(size, generator=rng) + torch.rand(size, generator=rng)) / size
        lost = (1 - EPS) * t  # 1 - alpha_t
        hit = torch.rand(ids.shape, generator=rng) < lost[:, None]
        tokens = torch.randint(self.denoiser.vocab_size, ids.shape, generator=rng)
        return torch.where(hit & free, tokens, ids), t, free.float().mean(1) * lost

    @torch.inference_mode()
    def seen(self, ids: Tensor, t: Tensor, unknown: Tensor) -> Features:
        """Return what the network says of texts under noise, given what `noised` drew."""
        ids, t, unknown = (tensor.to(self._templates.device) for tensor in (ids, t, unknown))
        hidden, self._batch_size = encode(self.denoiser, ids, t, self._batch_size)
        return Features(hidden, unknown)

    def decode(self, x0: Tensor) -> Sequence[Text]:
        """Return the texts of (R, L) ids; R is a multiple of M."""
        population = torch.arange(len(self._templates), device=x0.device).repeat_interleave(len(x0) // len(self._templates))
        return self._decode(x0, population)

    def _uniforms(self, noise: Noise, stream: Tensor | int, step: int) -> Tensor:
        """Return (M, S, 2 L) uniforms, S per particle: first those that choose the way, then those that choose the token."""
        return uniforms_of(noise, stream, step, 2 * self._templates.shape[1])

    def _look(self, state: UniformState, k: int) -> UniformState:
        """Bring `hidden` up to date; rows that are equal share one forward, and copies of a row that was seen need none."""
        if bool((state.seen == k).all()):
            return state
        unique, inverse = torch.unique(state.ids, dim=0, return_inverse=True)
        hidden = self._encode(unique, self._times[k])
        check_memory(len(state.ids) * hidden[0].nbytes, hidden.device)
        return replace(state, hidden=hidden[inverse], seen=torch.full_like(state.seen, k))

    def _encode(self, ids: Tensor, time: float) -> Tensor:
        self.ledger.denoiser_rows += len(ids)
        t = torch.full((len(ids),), time, device=ids.device)
        hidden, self._batch_size = encode(self.denoiser, ids, t, self._batch_size)
        return hidden

    def _correct(self, state: UniformState, step: int, number: int, noise: Noise) -> UniformState:
        """Update one position of every particle by its law given the others, after `step` steps."""
        state = self._look(state, step)
        place = torch.arange(2, device=state.ids.device) + 2 * (state.ids.shape[1] + number)  # behind the uniforms of the step
        where, what = noise.uniform(streams.TOKEN, step, place).split(1, 1)
        row, column = torch.arange(len(state.ids), device=place.device), self._chosen(where[:, 0])
        ids = state.ids.clone()
        for part, logits in heads(self.denoiser, state.hidden[row, column], self.ledger):
            probs = token_probs(logits, self._forbidden, self._temperature, self._top_p)
            tokens = draw_tokens(conditional(probs, alpha(self._times[step])), what[part])
            ids[row[part], column[part]] = tokens[:, 0]
        return UniformState.of(ids)

    def _chosen(self, uniforms: Tensor) -> Tensor:
        """Choose a position of each particle that is not clamped, by (M,) uniforms: (M,) columns."""
        free = (self._templates == self.denoiser.mask_id).repeat_interleave(self._particles, 0)
        wanted = (uniforms * free.sum(1)).long()
        return torch.searchsorted(free.long().cumsum(1), wanted[:, None], right=True)[:, 0]

    def _draw(self, state: UniformState, k: int, k_next: int, uniforms: Tensor, *, greedy: bool = False) -> Tensor:
        """Draw the states at step k_next by (M, S, 2 L) uniforms: (M, S, L); or take the likeliest tokens of p."""
        before, after, size = alpha(self._times[k]), alpha(self._times[k_next]), self.denoiser.vocab_size
        free = (self._templates == self.denoiser.mask_id).repeat_interleave(self._particles, 0)
        row, column = free.nonzero(as_tuple=True)
        which, what = uniforms[row, :, column], uniforms[row, :, column + free.shape[1]]
        drawn = state.ids[row, column, None].repeat(1, uniforms.shape[1])
        for part, logits in heads(self.denoiser, state.hidden[row, column], self.ledger):
            probs = token_probs(logits, self._forbidden, self._temperature, self._top_p)
            if greedy:
                drawn[part] = probs.argmax(-1, keepdim=True)
                continue
            tokens = drawn[part, 0]
            here = probs.gather(1, tokens[:, None])[:, 0].double() / probs.sum(-1, dtype=torch.float64)
            drawn[part] = take(renewed(here, size, before, after, self._eta), tokens, probs, which[part], what[part])
        ids = state.ids[:, None].repeat(1, uniforms.shape[1], 1)
        ids[row, :, column] = drawn
        return ids
