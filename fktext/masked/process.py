"""Sample masked (absorbing) diffusion, exactly and lazily.

In one reverse step from time t to s every masked position is revealed with probability 1 - s/t, whatever the tokens are, and
then holds a draw from p(x0 | x_t) (Sahoo et al. 2024, arXiv 2406.07524, eq. 7, linear schedule). So *when* each is revealed can be
drawn first: the reveal time of a position is uniform on (0, 1). The network then runs only on states that differ from the last
one it saw, at most L of them instead of T per particle, and the vocabulary head only at positions that are being revealed. This is
the law of the T-step ancestral sampler, not an approximation of it; `fktext.testing` proves it against the dense sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from fktext.batches import check_memory
from fktext.masked.denoiser import Denoiser, encode
from fktext.masked.sampling import draw_tokens, token_probs
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.smc.process import Features
from fktext.text import Text

HEAD_ELEMENTS = 1 << 24  # most logits held at once: 64 MiB in float32
CPU_ELEMENTS = 1 << 22  # of them looked at together on a CPU: larger tensors would come from the system anew, page by page


@dataclass
class MaskedState:
    """Hold M particles.

    Attributes:
        ids: (M, L) int64 tokens, mask_id where not yet revealed.
        hidden: (M, L, D) what the network last said, or of the last columns only; (M, 0, 0) before it spoke.
        known: (M,) bool, whether `hidden` belongs to the present `ids`.
    """

    ids: Tensor
    hidden: Tensor
    known: Tensor

    def forget(self) -> Self:
        """Return the particles without what the network said of them."""
        empty = self.hidden.new_empty((len(self.ids), 0, 0))
        return replace(self, hidden=empty, known=torch.zeros_like(self.known))


State = TypeVar("State", bound=MaskedState)
Draw = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Draw tokens at (R,) rows and columns from hidden states (R, D) by uniforms (R, S): (R, S)."""


class MaskedDiffusion:
    """Reverse the noise of a masked-diffusion language model over `num_steps` equal steps.

    Args:
        denoiser: network and vocabulary head.
        templates: (B, L) int64, the clamped tokens of each population (a prompt, or any set of positions), mask_id elsewhere.
        particles: N; particle m belongs to population m // N.
        num_steps: T.
        decode: (R, L) finished ids and (R,) population indices -> R texts.
        forbidden: token ids p(x0) never produces, beside the mask.
        barred: (B, L) bool positions and (V,) bool tokens: at those positions p(x0) does not produce those tokens either.
        temperature, top_p: applied to p(x0).
        batch_size: most rows per network call; halved where memory does not hold them.
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
        barred: tuple[Tensor, Tensor] | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 256,
    ) -> None:
        self.denoiser = denoiser
        self.num_steps = num_steps
        self.ledger = Ledger()
        self._templates = templates
        self._particles = particles
        self._decode = decode
        self._forbidden = torch.tensor(sorted({denoiser.mask_id, *forbidden}), device=templates.device)
        self._barred = barred
        self._temperature, self._top_p = temperature, top_p
        self._batch_size = batch_size
        # t_k, the noise time after k steps: 1 down to 0. A position is masked at t_k exactly if its reveal time is below t_k.
        self._times = 1 - torch.arange(num_steps + 1, dtype=torch.float64, device=templates.device) / num_steps

    def init(self, noise: Noise) -> MaskedState:
        """Mask all positions but the clamped ones."""
        return self.start(self._templates.repeat_interleave(self._particles, 0))

    def start(self, ids: Tensor) -> MaskedState:
        """Return the particles at step 0 with these (M, L) ids; what is not masked is clamped."""
        return MaskedState(ids, ids.new_empty((len(ids), 0, 0), dtype=torch.float32), ids.new_zeros(len(ids), dtype=torch.bool))

    @torch.inference_mode()
    def advance(self, state: MaskedState, k: int, k_next: int, noise: Noise) -> MaskedState:
        """Reveal what falls into steps k + 1 .. k_next; each row jumps from one of its reveal steps to the next."""
        with self.ledger.denoising():
            return self.reveal(state, k, k_next, noise, self._draw)

    def reveal(self, state: State, k: int, k_next: int, noise: Noise, draw: Draw) -> State:
        """Advance with tokens from `draw`, called once per jump; when a position is revealed does not depend on it."""
        ids = state.ids.clone()
        reveal, moment = self._reveals(state, k, noise)
        for jump, (active, row, column) in enumerate(self._jumps(reveal, moment, k_next)):
            step = reveal[row, column]
            before = moment.new_zeros(len(ids)).index_copy(0, row, moment[row, column])[active]
            if jump == 0:  # what `predict` saw, or the beginning
                state = self._refresh(state, active, before)
                hidden = state.hidden[row, column - ids.shape[1]]
            else:
                hidden = self._encode(ids[active], before)[torch.searchsorted(active, row), column - ids.shape[1]]
            ids[row, column] = draw(hidden, noise.uniform(streams.TOKEN, step, column, row)[:, None], row, column)[:, 0]
        return replace(state, ids=ids, known=state.known & (ids == state.ids).all(-1))

    @torch.inference_mode()
    def predict(self, state: MaskedState, k: int, noise: Noise, samples: int) -> tuple[Tensor, MaskedState]:
        """Draw x0 ~ p(x0 | x_t), every masked position on its own; at the last step x0 is the state.

        Returns:
            (M * samples, L) int64, particle-major ((M, L) at the last step); and the state, with the network's output kept.
        """
        if k == self.num_steps:
            return state.ids, state
        with self.ledger.denoising():
            masked = state.ids == self.denoiser.mask_id
            active = masked.any(-1).nonzero()[:, 0]
            state = self._refresh(state, active, self._times[k].expand(len(active)))
            x0 = state.ids[:, None].repeat(1, samples, 1)
            row, column = masked.nonzero(as_tuple=True)
            draws = torch.arange(streams.X0, streams.X0 + samples, device=row.device)
            uniforms = noise.uniform(draws, k, column[:, None], row[:, None])
            if len(row):
                x0[row, :, column] = self._draw(state.hidden[row, column - x0.shape[2]], uniforms, row, column)
            return x0.flatten(0, 1), state

    @torch.inference_mode()
    def features(self, state: State, k: int) -> tuple[Features, State]:
        """Return the network's hidden states of all particles, finished ones too; see `fktext.smc.process.Featured`."""
        with self.ledger.denoising():
            rows = torch.arange(len(state.ids), device=state.ids.device)
            state = self._refresh(state, rows, self._times[k].expand(len(rows)))
            return Features(state.hidden, (state.ids == self.denoiser.mask_id).float().mean(1)), state

    def decode(self, x0: Tensor) -> Sequence[Text]:
        """Return the texts of (R, L) ids; R is a multiple of M."""
        population = torch.arange(len(self._templates), device=x0.device).repeat_interleave(len(x0) // len(self._templates))
        return self._decode(x0, population)

    def _reveals(self, state: MaskedState, k: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return when each position is revealed, (M, L): its step, int64, and the time the network is asked at, float64.

        Where nothing is masked they are num_steps + 1 and -1. A slot's first reveal times hold for its whole run, so a lineage that
        is never replaced does not depend on when it is weighed. A slot that took over another's particle may hold a masked position
        whose own time has passed: it gets a new one, uniform below t_k. Given that a position is still masked at t_k its time is
        uniform below t_k either way.
        """
        position = torch.arange(state.ids.shape[1], device=state.ids.device)
        when = noise.uniform(streams.REVEAL, 0, position)
        if k:
            now = self._times[k]
            when = torch.where(when < now, when, now * noise.uniform(streams.REVEAL, k, position))
        step = torch.searchsorted(-self._times, -when)
        masked = state.ids == self.denoiser.mask_id
        return torch.where(masked, step, self.num_steps + 1), torch.where(masked, self._moment(step, when), -1.0)

    def _moment(self, step: Tensor, when: Tensor) -> Tensor:
        """Return the noise time that the network is asked at for a position that its clock reveals at `when`, in `step`."""
        return self._times[step - 1]

    @staticmethod
    def _jumps(reveal: Tensor, moment: Tensor, k_next: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Plan the window's network calls at once: (active rows, and row and column of each position to reveal).

        The i-th call takes every row to the i-th of its distinct moments: as many calls as the busiest row has moments.

        Example:
            Two rows of three positions, T = 4, a window up to step 3. The first row has two moments, 1.0 for two positions and
            0.5 for one; the second has three, of which its last position's, 0.25 in step 4, is beyond the window.

            >>> reveal = torch.tensor([[1, 3, 1], [2, 3, 4]])
            >>> moment = torch.tensor([[1.0, 0.5, 1.0], [0.75, 0.5, 0.25]])
            >>> for active, row, column in MaskedDiffusion._jumps(reveal, moment, 3):
            ...     print(active.tolist(), list(zip(row.tolist(), column.tolist())))
            [0, 1] [(0, 0), (0, 2), (1, 0)]
            [0, 1] [(0, 1), (1, 1)]
        """
        ordered, order = moment.sort(-1, descending=True)
        # place of a position's moment among its row's, from 0: in the example [[0, 1, 0], [0, 1, 2]]
        rank = torch.zeros_like(order).scatter_(-1, order, (ordered.diff(dim=-1, prepend=ordered[:, :1]) < 0).cumsum(-1))
        row, column = (reveal <= k_next).nonzero(as_tuple=True)
        jump = rank[row, column]
        by_jump = jump.argsort(stable=True)
        row, column, jump = row[by_jump], column[by_jump], jump[by_jump]
        # one number per row of a network call, jump * M + row: [0, 1, 2, 3]
        calls = torch.unique_consecutive(jump * len(reveal) + row)
        sizes = torch.stack([torch.bincount(jump), torch.bincount(calls // len(reveal))]).tolist()
        positions = zip(row.split(sizes[0]), column.split(sizes[0]), strict=True)
        for active, (rows, columns) in zip((calls % len(reveal)).split(sizes[1]), positions, strict=True):
            yield active, rows, columns

    def _refresh(self, state: State, active: Tensor, t: Tensor) -> State:
        """Bring `hidden` of the active rows up to date; rows that are equal, at equal times, share one forward.

        Example:
            Three rows of two positions, where 9 is the mask; a network that says tokens times noise time runs on two of them.

            >>> class Echo:
            ...     mask_id, vocab_size, time_dependent = 9, 10, True
            ...     def encode(self, ids, t):
            ...         return (ids * t[:, None])[..., None]
            >>> process = MaskedDiffusion(Echo(), torch.full((1, 2), 9), 3, 4, decode=list)
            >>> state = process.start(torch.tensor([[9, 1], [9, 2], [9, 1]]))
            >>> t = torch.full((3,), 0.5, dtype=torch.float64)
            >>> process._refresh(state, torch.arange(3), t).hidden[..., 0].tolist()
            [[4.5, 0.5], [4.5, 1.0], [4.5, 0.5]]
            >>> process.ledger.denoiser_rows
            2
        """
        if not self.denoiser.time_dependent:
            stale = ~state.known[active]
            active, t = active[stale], torch.ones_like(t[stale])
        if not len(active):
            return state
        seen = torch.cat([state.ids[active], t[:, None].view(torch.int64)], 1)  # the bits of t as one more column, to be compared
        unique, inverse = torch.unique(seen, dim=0, return_inverse=True)
        fresh = self._encode(unique[:, :-1], unique[:, -1].view(torch.float64))
        hidden = state.hidden
        if not hidden.numel():
            check_memory(2 * len(state.ids) * fresh[0].nbytes, fresh.device)  # this one, and the copy below
            hidden = fresh.new_empty((len(state.ids), *fresh.shape[1:]))
        return replace(state, hidden=hidden.index_copy(0, active, fresh[inverse]), known=state.known.index_fill(0, active, True))

    def _encode(self, ids: Tensor, t: Tensor) -> Tensor:
        self.ledger.denoiser_rows += len(ids)
        hidden, self._batch_size = encode(self.denoiser, ids, t.float(), self._batch_size)
        return hidden

    def _draw(self, hidden: Tensor, uniforms: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Draw tokens from p(x0) of some positions, (R,) rows and columns: (R, D), (R, S) -> (R, S)."""
        return torch.cat([draw_tokens(self._probs(logits), uniforms[part]) for part, logits in self._logits(hidden, row, column)])

    def _logits(self, hidden: Tensor, row: Tensor, column: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Run the head on a bounded number of positions at a time: which of the (R, D) hidden states, and their logits."""
        self.ledger.head_positions += len(hidden)
        size = max(1, HEAD_ELEMENTS // self.denoiser.vocab_size)
        for first in range(0, len(hidden), size):
            part = slice(first, first + size)
            logits = self.denoiser.logits(hidden[part])
            if self._barred is not None:
                places, tokens = self._barred
                here = places[row[part] // self._particles, column[part]]
                logits = logits.masked_fill(here[:, None] & tokens, -torch.inf)
            few = max(1, CPU_ELEMENTS // self.denoiser.vocab_size) if logits.device.type == "cpu" else size
            for start, piece in zip(range(first, first + len(logits), few), logits.split(few), strict=True):
                yield slice(start, start + len(piece)), piece

    def _probs(self, logits: Tensor) -> Tensor:
        """Return p(x0) from (R, V) raw logits, as it is drawn from; not normalised where top_p < 1."""
        return token_probs(logits, self._forbidden, self._temperature, self._top_p)
