"""Write texts canvas after canvas: uniform-state diffusion of C tokens after a causal prefix, as DiffusionGemma does.

The network gives p(v), the law of a position's clean token given *all* of x_t, its own noisy token included (Austin et al. 2021,
"Structured Denoising Diffusion Models in Discrete State-Spaces", arXiv 2107.03006). With alpha = k / T after k of the T steps of a
canvas, and r = alpha_t / alpha_s, a reverse step draws each position from the mixture

    q(v) = sum over x0 of p(x0) q(v | x_t, x0)

In closed form that is staying, a draw from p and a uniform token, as it is for a network that does not see the position itself, but
with other masses: `routes`.

Beside x_t the network hears what it said at the step before, as the mean embedding of a token ("self-conditioning"; Chen et al.
2022, "Analog Bits", arXiv 2208.04202). So a particle is x_t and that embedding, and both follow it where it is copied. A finished
canvas belongs to the prefix of the next. Keys and values of a prefix follow from its tokens: they are kept by content, once for all
particles that share it, and need not travel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from fktext.batches import check_memory, fits
from fktext.masked.sampling import token_probs
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.text import Text
from fktext.texts.model import Network
from fktext.uniform.process import Routes, anything, heads, take, uniforms_of

UNWRITTEN = -1  # marks places of a text that are to be written


class CanvasNetwork(Network, Protocol):
    """A network that reads a prefix once, and denoises a canvas after it.

    Attributes:
        canvas: C, tokens of a canvas.
        width: D, of a hidden state and of an embedding.
        dtype: of embeddings.
    """

    canvas: int
    width: int
    dtype: torch.dtype

    def prefix(self, ids: Tensor, before: tuple[Any, Tensor] | None) -> Any:
        """Read (U, n) prefixes, which are all of a length: return what `encode` needs of them.

        Args:
            ids: all their tokens.
            before: what it returned of the first tokens of other prefixes, and (U,) which of those each one continues.
        """
        ...

    def encode(self, canvas: Tensor, soft: Tensor, prefix: Any, which: Tensor) -> Tensor:
        """Map (R, C) tokens to (R, C, D) hidden states; position i predicts token i.

        Args:
            canvas: x_t.
            soft: (R, C, D), what `embed` made of the step before, 0 at the first.
            prefix, which: what `prefix` returned, and (R,) which of its rows comes before each canvas.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (R, D) hidden states of any positions to (R, V) raw logits."""
        ...

    def embed(self, logits: Tensor) -> Tensor:
        """Map (R, V) raw logits to (R, D): the mean embedding of a token under their softmax."""
        ...


def routes(here: Tensor, size: int, before: float, after: float) -> Routes:
    """Split the posterior into its three ways, given a plain denoiser's p; arguments as for `fktext.uniform.process.routes`.

    A clean token v explains the one that is held with Z(v) = (1 - alpha_t) / K, and alpha_t more where both are the same. Of that,
    the step goes to v with alpha_s (1 - r) / K, and alpha_t more; stays with r (1 - alpha_s) / K; and draws any token with
    (1 - r) (1 - alpha_s) / K. With v drawn from p the first share is the same for all v but the one that is held: what that has
    more is a way of staying.
    """
    ratio = before / after
    draw = after * (1 - ratio) / (1 - before)  # of any other token: its mass over Z
    clean = (after * (1 - ratio) + size * before) / (1 - before + size * before)  # of the held one
    unsure = (1 - here) / (1 - before) + here / (1 - before + size * before)  # K^-1 times the mean of 1 / Z
    return Routes(here * (clean - draw) + ratio * (1 - after) * unsure, draw, (1 - ratio) * (1 - after) * unsure)


def canvases_needed(template: Tensor, canvas: int) -> int:
    """Count the canvases that write the places of a template (L,) that are `UNWRITTEN`: all after its first tokens."""
    return math.ceil(int((template == UNWRITTEN).sum()) / canvas)


@dataclass
class CanvasState:
    """Hold M particles.

    Attributes:
        text: (M, L) int64, the prompt and the canvases that are finished, `UNWRITTEN` behind.
        canvas: (M, C) int64, the present one.
        soft: (M, C, D), what the network said one step before, embedded; 0 where the canvas begins.
        hidden: (M, C, D) what it last said, or (M, 0, 0) before it spoke of the present state.
        seen: (M,) int64, the step at which it said so, -1 before.
    """

    text: Tensor
    canvas: Tensor
    soft: Tensor
    hidden: Tensor
    seen: Tensor

    @classmethod
    def of(cls, text: Tensor, canvas: Tensor, soft: Tensor) -> Self:
        """Return particles that the network has not seen."""
        return cls(text, canvas, soft, soft.new_empty((len(text), 0, 0)), torch.full_like(text[:, 0], -1))

    def forget(self) -> Self:
        """Return the particles without what the network said of them."""
        return type(self).of(self.text, self.canvas, self.soft)


class CanvasDiffusion:
    """Reverse the noise of one canvas after the other; a canvas takes `canvas_steps`.

    A prompt is the prefix of the first canvas, so nothing is clamped. A text that holds an end token behind it is finished: its
    later canvases stay unwritten and cost nothing.

    Args:
        network: see there.
        templates: (B, L) int64: each population's prompt, then `UNWRITTEN`. Prompts may differ in length, but all need the same
            number of canvases. A last canvas that reaches beyond L is cut.
        particles: N; particle m belongs to population m // N.
        canvas_steps: T.
        decode: (R, L) ids, `UNWRITTEN` behind an unfinished text, and (R,) population indices -> R texts.
        ends: tokens that end a text.
        forbidden: token ids that p never produces. They stay states of the noise, and none is left at the end.
        temperature, top_p: applied to p; what is fed back to the network is the plain softmax.
        batch_size: most rows per network call; halved where memory does not hold them.
    """

    def __init__(
        self,
        network: CanvasNetwork,
        templates: Tensor,
        particles: int,
        canvas_steps: int,
        decode: Callable[[Tensor, Tensor], Sequence[Text]],
        *,
        ends: Sequence[int] = (),
        forbidden: Sequence[int] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 256,
    ) -> None:
        self.network = network
        self.ledger = Ledger()
        self._templates, self._particles, self._decode = templates, particles, decode
        self._steps, self._size = canvas_steps, network.canvas
        canvases = {canvases_needed(template, self._size) for template in templates}
        if len(canvases) != 1:
            raise ValueError(f"templates of one process need the same number of canvases, these need {sorted(canvases)}")
        self.num_steps = canvases.pop() * canvas_steps
        self._starts = (templates != UNWRITTEN).sum(-1).repeat_interleave(particles)
        self._ends, self._forbidden = (
            torch.tensor(sorted(set(ids)), dtype=torch.int64, device=templates.device) for ids in (ends, forbidden)
        )
        self._temperature, self._top_p, self._batch_size = temperature, top_p, batch_size
        self._prefixes: dict[int, tuple[Tensor, Any]] = {}  # by prompt length: distinct prefixes, and what the network made of them

    def init(self, noise: Noise) -> CanvasState:
        """Start the first canvas after the prompts as uniform tokens."""
        return self._begin(self._templates.repeat_interleave(self._particles, 0), 0, noise)

    @torch.inference_mode()
    def advance(self, state: CanvasState, k: int, k_next: int, noise: Noise) -> CanvasState:
        """Take the reverse steps k + 1 .. k_next one by one."""
        with self.ledger.denoising():
            for step in range(k, k_next):
                state = self._step(self._look(state, step), step, noise)
            return state

    @torch.inference_mode()
    def predict(self, state: CanvasState, k: int, noise: Noise, samples: int) -> tuple[Tensor, CanvasState]:
        """Draw the present canvas from p, every position on its own, after those that are finished; later ones stay unwritten.

        Returns:
            (M * samples, L) int64, particle-major ((M, L) at the last step); and the state, with the network's output kept.
        """
        if k == self.num_steps:
            return state.text, state
        with self.ledger.denoising():
            state = self._look(state, k)
            draws = torch.arange(streams.X0, streams.X0 + samples, device=state.text.device)
            canvas, _ = self._draw(state, k, 1.0, uniforms_of(noise, draws, k, 2 * self._size))
            x0 = torch.stack([self._written(state.text, canvas[:, sample], k) for sample in range(samples)], 1)
            return x0.flatten(0, 1), state

    def decode(self, x0: Tensor) -> Sequence[Text]:
        """Return the texts of (R, L) ids; R is a multiple of M."""
        population = torch.arange(len(self._templates), device=x0.device).repeat_interleave(len(x0) // len(self._templates))
        return self._decode(x0, population)

    def _begin(self, text: Tensor, step: int, noise: Noise) -> CanvasState:
        """Draw a canvas of uniform tokens after what is written, at the step that finished the one before."""
        size = self._size
        place = torch.arange(2 * size, 3 * size, device=text.device)  # behind those of the step itself
        canvas = anything(noise.uniform(streams.TOKEN, step, place), self.network.vocab_size)
        soft = torch.zeros((len(text), size, self.network.width), dtype=self.network.dtype, device=text.device)
        return CanvasState.of(text, canvas, soft)

    def _step(self, state: CanvasState, step: int, noise: Noise) -> CanvasState:
        """Take the step after `step` from a state that the network has seen."""
        inside, following = step % self._steps, step + 1
        canvas, soft = self._move(state, step, uniforms_of(noise, streams.TOKEN, following, 2 * self._size))
        if inside + 1 < self._steps:
            return CanvasState.of(state.text, canvas, soft)
        text = self._written(state.text, canvas, step)
        return self._begin(text, following, noise) if following < self.num_steps else replace(state.forget(), text=text)

    def _move(self, state: CanvasState, step: int, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (M, C) canvas after the step that follows `step`, and (M, C, D) what it leaves to be fed back."""
        canvas, soft = self._draw(state, step, (step % self._steps + 1) / self._steps, uniforms, embedded=True)
        return canvas[:, 0], soft

    def _columns(self, step: int) -> Tensor:
        """Return (M, C), the places of the canvas that is written at a step; those beyond L are cut."""
        start = self._starts + step // self._steps * self._size
        return start[:, None] + torch.arange(self._size, device=start.device)

    def _written(self, text: Tensor, canvas: Tensor, step: int) -> Tensor:
        """Put (M, C) tokens into the places of the present canvas, but of texts that have ended."""
        columns = self._columns(step)
        row, place = ((columns < text.shape[1]) & self._live(text)[:, None]).nonzero(as_tuple=True)
        return text.index_put((row, columns[row, place]), canvas[row, place])

    def _live(self, text: Tensor) -> Tensor:
        """Return (M,) bool: which texts have no end token behind the prompt."""
        behind = torch.arange(text.shape[1], device=text.device) >= self._starts[:, None]
        return ~(torch.isin(text, self._ends) & behind).any(1)

    def _look(self, state: CanvasState, k: int) -> CanvasState:
        """Bring `hidden` up to date where a text goes on; rows that are equal, in all that the network sees, share one forward."""
        stale = self._live(state.text) & (state.seen != k)
        if not bool(stale.any()):
            return state
        hidden = state.hidden
        if not hidden.numel():
            check_memory(2 * state.soft.nbytes, hidden.device)  # this one, and the copy below
            hidden = torch.zeros_like(state.soft)
        for start in self._starts[stale].unique().tolist():
            rows = (stale & (self._starts == start)).nonzero()[:, 0]
            context = state.text[rows, : start + k // self._steps * self._size]
            same = _equal(torch.cat([context, state.canvas[rows]], 1), state.soft[rows])
            first = torch.full_like(same, len(rows)).scatter_reduce_(0, same, torch.arange(len(rows), device=rows.device), "amin")
            first = first[: int(same.max()) + 1]
            self.ledger.cached_positions += first.numel() * context.shape[1]
            prefix, which = self._prefix(start, context[first])
            fresh = self._encode(state.canvas[rows[first]], state.soft[rows[first]], prefix, which)
            hidden = hidden.index_copy(0, rows, fresh[same].to(hidden.dtype))
        return replace(state, hidden=hidden, seen=torch.where(stale, k, state.seen))

    def _prefix(self, start: int, context: Tensor) -> tuple[Any, Tensor]:
        """Return what the network makes of distinct prefixes, and which of them each of the (R, n) contexts is.

        The last ones of a prompt length are remembered; longer ones go on from them where they can.
        """
        unique, which = torch.unique(context, dim=0, return_inverse=True)
        known, made = self._prefixes.get(start, (unique[:0], None))
        if known.shape[1] == unique.shape[1] and bool(((place := _find(unique, known)) >= 0).all()):
            return made, place[which]
        size = known.shape[1]
        before = _find(unique[:, :size], known) if size < unique.shape[1] else unique.new_full((len(unique),), -1)
        onward = bool((before >= 0).all())
        self.ledger.denoiser_rows += len(unique)
        self.ledger.cached_positions += len(unique) * size * onward
        self._prefixes.pop(start, None)  # what is not gone on from makes room
        made = self.network.prefix(unique, (made, before) if onward else None)
        self._prefixes[start] = unique, made
        return made, which

    def _encode(self, canvas: Tensor, soft: Tensor, prefix: Any, which: Tensor) -> Tensor:
        """Run the network on rows of any number, in halves where memory does not hold them."""
        self.ledger.denoiser_rows += len(canvas)
        parts: list[Tensor] = []
        done = 0
        while done < len(canvas):
            part = slice(done, done + self._batch_size)
            call = partial(self.network.encode, canvas[part], soft[part], prefix, which[part])
            if (hidden := fits(call, size := len(canvas[part]))) is None:
                self._batch_size = size // 2
                continue
            parts.append(hidden)
            done += size
        return torch.cat(parts)

    def _draw(
        self, state: CanvasState, step: int, after: float, uniforms: Tensor, *, embedded: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Draw the present canvas as it is at alpha_s = `after`, by (M, S, 2 C) uniforms.

        Logits are reduced to what is drawn, and to the embedding of their softmax where it is asked for, and given up.

        Returns:
            (M, S, C) tokens, as they were where a text has ended; and (M, C, D), 0 there or where it is not asked for.
        """
        before = step % self._steps / self._steps
        live = self._live(state.text)
        row, column = live[:, None].expand(state.canvas.shape).nonzero(as_tuple=True)
        which, what = uniforms[row, :, column], uniforms[row, :, column + self._size]
        held = state.canvas[row, column]
        drawn, soft = held[:, None].repeat(1, uniforms.shape[1]), torch.zeros_like(state.soft)
        for part, logits in heads(self.network, state.hidden[row, column], self.ledger):
            probs = token_probs(logits, self._forbidden, self._temperature, self._top_p)
            here = probs.gather(1, held[part, None])[:, 0].double() / probs.sum(-1, dtype=torch.float64)
            masses = routes(here, self.network.vocab_size, before, after)
            drawn[part] = take(masses, held[part], probs, which[part], what[part])
            if embedded:
                soft[row[part], column[part]] = self.network.embed(logits)
        canvas = state.canvas[:, None].repeat(1, uniforms.shape[1], 1)
        canvas[row, :, column] = drawn
        return canvas, soft


def _equal(ids: Tensor, soft: Tensor) -> Tensor:
    """Number (R,) rows so that those have the same number that are equal in (R, n) tokens and in every bit of (R, C, D) numbers."""
    _, label = torch.unique(ids, dim=0, return_inverse=True)
    twice = torch.bincount(label)[label] > 1  # only of these is more to be compared, which is a thousand times as long
    bits = soft[twice].flatten(1).view(torch.int16 if soft.element_size() == 2 else torch.int32)
    _, finer = torch.unique(torch.cat([label[twice, None].view(bits.dtype), bits], 1), dim=0, return_inverse=True)
    label[twice] = len(label) + finer
    numbers: Tensor = torch.unique(label, return_inverse=True)[1]
    return numbers


def _find(rows: Tensor, among: Tensor) -> Tensor:
    """Return (R,) int64: where each of the rows is among others, which are distinct; -1 where it is not."""
    if not len(among):
        return rows.new_full((len(rows),), -1)
    _, label = torch.unique(torch.cat([among, rows]), dim=0, return_inverse=True)
    place = torch.full_like(label, -1).index_copy_(0, label[: len(among)], torch.arange(len(among), device=rows.device))
    return place[label[len(among) :]]
