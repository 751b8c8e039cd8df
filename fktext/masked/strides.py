"""Write texts longer than the network: a masked diffusion, window by window.

The first window is written as any text is. Then the window moves on by a stride: what it still covers of the text is clamped, the
rest is masked, and the process begins anew (the semi-autoregressive sampler of Sahoo et al. 2024, arXiv 2406.07524).
Here that is one long reverse process of (windows x T) steps, so whatever steers a process steers it: particles, weights and
lineages go on across windows, and a prediction of x0 covers the text as far as the present window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fktext.masked.process import MaskedDiffusion, MaskedState
from fktext.smc.noise import Noise
from fktext.text import Text


def windows(template: Tensor, mask_id: int, size: int, stride: int, head: int = 0, tail: int = 0) -> list[Tensor]:
    """Return the columns of a text that each window covers, without windows in which nothing is to be written.

    Windows begin at multiples of the stride; the last one ends with the text, so that it sees as much of it as it can.

    Args:
        template: (L,) int64, masked where to write; L >= size.
        mask_id: of the network.
        size: positions of a window.
        stride: how far the window moves; less than `size` - `head` - `tail`.
        head, tail: columns at the beginning and end of the text that every window holds at its own beginning and end (BOS, say).

    Returns:
        (size,) int64 columns of each window. Texts of one length that need the same number of windows have the same.
    """
    room = size - head - tail
    if not 0 < stride < room:
        raise ValueError(f"stride {stride} is outside 1 .. {room - 1}")
    length = len(template)
    last = length - tail - room
    first = int((template == mask_id).nonzero()[0, 0])
    column = torch.arange(length)
    return [
        torch.cat([column[:head], column[start : start + room], column[length - tail :]])
        for start in [*range(head, last, stride), last]
        if start + room > first
    ]


@dataclass(frozen=True)
class _Later(Noise):
    """Count a later window's steps on from the `steps` of the windows before, so that no two share a draw of the noise."""

    steps: int

    def uniform(self, stream: Tensor | int, step: Tensor | int, position: Tensor | int, rows: Tensor | None = None) -> Tensor:
        """See `Noise.uniform`."""
        return super().uniform(stream, step + self.steps, position, rows)


@dataclass
class StrideState:
    """Hold M particles.

    Attributes:
        ids: (M, L) int64, the text so far, mask_id where nothing is written yet.
        window: the process's own state of the present window.
    """

    ids: Tensor
    window: MaskedState


class Strides:
    """Reverse the noise of a text in several windows; see `MaskedDiffusion` for one.

    Args:
        process: of the first window, with its templates, and with the number of steps T and the kernel of all.
        templates: (B, L) int64, the whole texts.
        columns: see `windows`; the same for all populations.
        particles: N; particle m belongs to population m // N.
        decode: (R, L) ids, mask_id behind what is written, and (R,) population indices -> R texts.
        endings: tokens that end a text. Where one was written no further window is: the row is filled up with the last of them, and
            nothing is computed for it.
    """

    def __init__(
        self,
        process: MaskedDiffusion,
        templates: Tensor,
        columns: Sequence[Tensor],
        particles: int,
        decode: Callable[[Tensor, Tensor], Sequence[Text]],
        *,
        endings: Sequence[int] = (),
    ) -> None:
        self.process = process
        self.ledger = process.ledger
        self.num_steps = len(columns) * process.num_steps
        self._columns = [part.to(templates.device) for part in columns]
        self._ids = templates.repeat_interleave(particles, 0)
        self._populations, self._decode = len(templates), decode
        self._endings = torch.tensor(endings, dtype=templates.dtype, device=templates.device)

    def init(self, noise: Noise) -> StrideState:
        """Mask the first window but for the clamped positions."""
        return StrideState(self._ids, self.process.start(self._ids[:, self._columns[0]]))

    @torch.inference_mode()
    def advance(self, state: StrideState, k: int, k_next: int, noise: Noise) -> StrideState:
        """Take the reverse steps k + 1 .. k_next, one window after the other."""
        while k < k_next:
            number, inside = self._place(k)
            if number and not inside:
                state = self._move(state, number)
            until = min(inside + k_next - k, self.process.num_steps)
            window = self.process.advance(state.window, inside, until, self._noise(noise, number))
            state = StrideState(state.ids.index_copy(1, self._columns[number], window.ids), window)
            k += until - inside
        return state

    @torch.inference_mode()
    def predict(self, state: StrideState, k: int, noise: Noise, samples: int) -> tuple[Tensor, StrideState]:
        """Draw the present window, every masked position on its own; where one is finished the text so far is the prediction.

        Returns:
            (M * samples, L) int64, particle-major ((M, L) at the last step), mask_id behind the window; and the state.
        """
        if k == self.num_steps:
            return state.ids, state
        number, inside = self._place(k)
        x0 = state.ids.repeat_interleave(samples, 0)
        if number and not inside:  # the window has yet to move on
            return x0, state
        drawn, window = self.process.predict(state.window, inside, self._noise(noise, number), samples)
        return x0.index_copy(1, self._columns[number], drawn), replace(state, window=window)

    def decode(self, x0: Tensor) -> Sequence[Text]:
        """Return the texts of (R, L) ids; R is a multiple of M."""
        population = torch.arange(self._populations, device=x0.device).repeat_interleave(len(x0) // self._populations)
        return self._decode(x0, population)

    def _place(self, k: int) -> tuple[int, int]:
        """Return, of k steps, how many windows are finished, and how many steps of the next are taken."""
        return divmod(k, self.process.num_steps)

    def _noise(self, noise: Noise, number: int) -> Noise:
        return _Later(noise.key, noise.slot, number * self.process.num_steps) if number else noise

    def _move(self, state: StrideState, number: int) -> StrideState:
        """Move on to a window: texts that ended are filled up, of the others the window's empty places are masked."""
        ids = state.ids
        if len(self._endings):
            mask_id = self.process.denoiser.mask_id
            # an ending in the prompt does not count
            ended = ((self._ids == mask_id) & torch.isin(ids, self._endings)).any(-1, keepdim=True)
            ids = torch.where(ended & (ids == mask_id), self._endings[-1], ids)
        return StrideState(ids, self.process.start(ids[:, self._columns[number]]))
