"""Semi-autoregressive simplex diffusion: SSD-LM's sampler (Han et al. 2023, arXiv 2210.17432, algorithm 2).

A text grows by blocks. A block starts as noise on the logits of the simplex, x_T = K z; a step from t to t - 1 is

    logits = network(context, x_t, t / T);  x_{t-1} = sqrt(a_{t-1}) projection(logits) + sqrt(1 - a_{t-1}) K z,  z ~ N(0, I)

and the last logits' argmax are its tokens, which then belong to the context of the next block. (x_{t-1} is no posterior sample: it
depends on x_t only through the logits.)

What a particle is at a step follows from what the network says there. So the state holds that, D hidden states a position instead
of V simplex logits; rewards and learned values look at it and the next step goes on from it, with one network call for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fktext.masked.sampling import draw_tokens
from fktext.simplex.guidance import Guidance
from fktext.simplex.projections import PROJECTIONS, K, Projection, nucleus, one_hot
from fktext.simplex.ssdlm import SimplexLM
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.smc.process import Features
from fktext.text import Text

ELEMENTS = 1 << 24  # most simplex logits held at once: 64 MiB in float32


def alpha_bar(t: float) -> float:
    """Return the share of signal at noise time t in [0, 1], by the cosine schedule; 1 at 0, 0 at 1."""

    def signal(at: float) -> float:
        return math.cos((at + 1e-4) / (1 + 1e-4) * math.pi / 2) ** 2

    return signal(t) / signal(0)


def renoise(point: Tensor, t: float, z: Tensor) -> Tensor:
    """Return x_t, given a clean simplex point (in [-K, K]) and standard normals of its shape."""
    signal = alpha_bar(t)
    return math.sqrt(signal) * point + math.sqrt(1 - signal) * K * z


def blocks_needed(template: Tensor, block: int) -> int:
    """Count the blocks that write the places of a template (L,) that hold SimplexLM.mask_id: all after its first tokens."""
    return math.ceil(int((template == SimplexLM.mask_id).sum()) / block)


@dataclass
class SimplexState:
    """M particles.

    Attributes:
        ids: (M, W) int64, the context and the blocks written so far, SimplexLM.mask_id behind.
        hidden: (M, W, D) what the network says of the context, of what is written, and of the present block at its noise time; 0
            behind.
    """

    ids: Tensor
    hidden: Tensor


class SimplexDiffusion:
    """The reverse process of SSD-LM; one step is one network call, and a block takes `block_steps` of them.

    Args:
        network: see there.
        templates: (B, L) int64: each population's context, which is not empty, then SimplexLM.mask_id. Contexts may differ in
            length, but all need the same number of blocks. A last block that reaches beyond L is cut.
        particles: N; particle m belongs to population m // N.
        block_steps: T, steps of a block.
        decode: (R, L) ids, SimplexLM.mask_id behind an unfinished text, and (R,) population indices -> R texts.
        projection: one of `PROJECTIONS` or another of its type.
        temperature, top_p: applied to the logits before projection, and to predictions of x0.
        guidance: applied to the logits before all else; also decides the final argmax.
        block: C, tokens of a block.
        batch_size: most rows per network call.
    """

    def __init__(
        self,
        network: SimplexLM,
        templates: Tensor,
        particles: int,
        block_steps: int,
        decode: Callable[[Tensor, Tensor], Sequence[Text]],
        *,
        projection: Projection = PROJECTIONS["sampling"],
        temperature: float = 1.0,
        top_p: float = 0.95,
        guidance: Guidance | None = None,
        block: int = 25,
        batch_size: int = 256,
    ) -> None:
        self.network = network
        self.ledger = Ledger()
        self._templates, self._particles, self._decode = templates, particles, decode
        self._block_steps, self._block = block_steps, block
        self._projection, self._temperature, self._top_p, self._guidance = projection, temperature, top_p, guidance
        blocks = {blocks_needed(template, block) for template in templates}
        if len(blocks) != 1:
            raise ValueError(f"templates of one process need the same number of blocks, these need {sorted(blocks)}")
        self.num_steps = blocks.pop() * block_steps
        # Rows of a network call have contexts of one length; together they hold a bounded number of simplex logits.
        self._contexts = (templates != SimplexLM.mask_id).sum(-1).repeat_interleave(particles)
        rows = max(1, min(batch_size, ELEMENTS // (block * network.vocab_size)))
        self._chunks: list[tuple[int, Tensor]] = [
            (int(length), part)
            for length in self._contexts.unique()
            for part in (self._contexts == length).nonzero()[:, 0].split(rows)
        ]

    @torch.inference_mode()
    def init(self, noise: Noise) -> SimplexState:
        """Start the first block as pure noise after the contexts."""
        width = int(self._contexts.max()) + self.num_steps // self._block_steps * self._block
        ids = self._templates.repeat_interleave(self._particles, 0)
        ids = torch.cat([ids, ids.new_full((len(ids), max(0, width - ids.shape[1])), SimplexLM.mask_id)], 1)
        with self.ledger.denoising():
            parts = [(rows, self._start_block(ids[rows], length, 0, rows, noise)) for length, rows in self._chunks]
            return SimplexState(ids, _assemble(parts, ids))

    @torch.inference_mode()
    def advance(self, state: SimplexState, k: int, k_next: int, noise: Noise) -> SimplexState:
        """Take the reverse steps k + 1 .. k_next, a chunk of rows after the other."""
        with self.ledger.denoising():
            ids = state.ids.clone()
            parts = []
            for context, rows in self._chunks:
                text, hidden = ids[rows], state.hidden[rows, : context + self._written(k) + self._block]
                for step in range(k + 1, k_next + 1):
                    hidden = self._step(text, hidden, context, step, rows, noise)
                ids[rows] = text
                parts.append((rows, hidden))
            return SimplexState(ids, _assemble(parts, ids))

    @torch.inference_mode()
    def predict(self, state: SimplexState, k: int, noise: Noise, samples: int) -> tuple[Tensor, SimplexState]:
        """Draw the present block, every position on its own, after the blocks that are written; later blocks stay unwritten.

        Returns:
            (M * samples, L) int64, particle-major ((M, L) at the last step), and the state.
        """
        length = self._templates.shape[1]
        if k == self.num_steps:
            return state.ids[:, :length], state
        with self.ledger.denoising():
            x0 = state.ids[:, None].repeat(1, samples, 1)
            position = torch.arange(self._block, device=x0.device)
            draws = torch.arange(streams.X0, streams.X0 + samples, device=x0.device)
            for context, rows in self._chunks:
                start = context + self._written(k)
                probs = nucleus(self._logits(state.hidden[rows, : start + self._block]).flatten(0, 1), self._top_p)
                uniforms = noise.uniform(draws, k, position[:, None], rows[:, None, None]).flatten(0, 1)
                tokens = draw_tokens(probs, uniforms).view(len(rows), self._block, samples)
                x0[rows, :, start : start + self._block] = tokens.transpose(1, 2)
            return x0.flatten(0, 1)[:, :length], state

    def features(self, state: SimplexState, k: int) -> tuple[Features, SimplexState]:
        """Return what the network said of all particles when it was last asked; see `fktext.smc.process.Featured`.

        It is asked nothing anew. Of the present block as much is unknown as its noise time says; of what is behind it, all.
        """
        length, t = self._templates.shape[1], 1 - k % self._block_steps / self._block_steps
        start = self._contexts + self._written(k)
        return Features(state.hidden[:, :length], self._unknown(start, t, length)), state

    def noised(self, ids: Tensor, free: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Draw how far finished texts are written; see `fktext.values.fit.Noising`.

        A text ends before its last block does where that reaches beyond L.

        Args:
            ids: (n, L), on the CPU.
            free: (n, L) bool, the positions that blocks write: all after a context that is not empty.
            rng: of the draws.

        Returns:
            The ids; where the present block starts and its noise time, (n,), over all blocks and times evenly; keys of its noise.
        """
        size, length = ids.shape
        context = (length - free.sum(1)).clamp(max=length - 1)
        blocks = ((length - context) / self._block).ceil()
        place = (torch.randperm(size, generator=rng) + torch.rand(size, generator=rng)) / size * blocks
        done = torch.minimum(place.floor(), blocks - 1)
        key = torch.randint(-(1 << 62), 1 << 62, (size,), generator=rng)
        return ids, context + done.long() * self._block, 1 - (place - done), key

    @torch.inference_mode()
    def seen(self, ids: Tensor, start: Tensor, t: Tensor, key: Tensor) -> Features:
        """Return what the network says of texts whose present block is under noise, given what `noised` drew."""
        ids, start, t, key = (tensor.to(self.network.device) for tensor in (ids, start, t, key))
        length, parts = ids.shape[1], []
        most = max(1, ELEMENTS // (self._block * self.network.vocab_size))
        for first in start.unique().tolist():
            for rows in (start == first).nonzero()[:, 0].split(most):
                block = ids[rows, first : first + self._block]
                clean = one_hot(block.flatten(), self.network.vocab_size).view(*block.shape, -1)
                draws = Noise(key[rows], torch.zeros_like(rows))
                z = draws.normal(streams.NORMAL, 0, clean[0].numel(), torch.arange(len(rows), device=rows.device)).view(clean.shape)
                x = torch.stack([renoise(*row) for row in zip(clean, t[rows].tolist(), z, strict=True)])
                parts.append((rows, self.network.encode_all(ids[rows, :first], x, t[rows, None, None])))
        return Features(_assemble(parts, ids), self._unknown(start, t, length))

    def _unknown(self, start: Tensor, t: Tensor | float, length: int) -> Tensor:
        """Return the share of L positions that is unknown, (R,), where the present blocks start at (R,) and are at noise time t."""
        left = (length - start).clamp(min=0)
        block = left.clamp(max=self._block)
        return ((t * block + left - block) / length).float()

    def decode(self, x0: Tensor) -> Sequence[Text]:
        """Return the texts of (R, L) ids; R is a multiple of M."""
        population = torch.arange(len(self._templates), device=x0.device).repeat_interleave(len(x0) // len(self._templates))
        return self._decode(x0, population)

    def _step(self, text: Tensor, hidden: Tensor, context: int, step: int, rows: Tensor, noise: Noise) -> Tensor:
        """Take reverse step number `step` of some rows: return the hidden states after it; write a finished block into `text`."""
        logits = self._logits(hidden)
        done, inside = divmod(step, self._block_steps)  # blocks finished by this step, steps taken inside the next
        if inside == 0:
            start = context + (done - 1) * self._block
            text[:, start : start + self._block] = logits.argmax(-1)
            return hidden if step == self.num_steps else self._start_block(text, context, step, rows, noise)
        position = torch.arange(self._block, device=rows.device)
        uniforms = noise.uniform(streams.TOKEN, step, position, rows[:, None])
        point = self._projection(logits.flatten(0, 1), self._top_p, uniforms.view(-1, 1)).view(logits.shape)
        t = 1 - inside / self._block_steps
        x = renoise(point, t, self._normals(step, rows, noise))
        return self._encode(text[:, : context + self._written(step)], x, t)

    def _start_block(self, text: Tensor, context: int, step: int, rows: Tensor, noise: Noise) -> Tensor:
        """Return the hidden states of a block of pure noise after what is written."""
        x = K * self._normals(step, rows, noise)
        return self._encode(text[:, : context + self._written(step)], x, 1.0)

    def _written(self, k: int) -> int:
        """Count the tokens of the blocks that are finished after k steps."""
        return k // self._block_steps * self._block

    def _normals(self, step: int, rows: Tensor, noise: Noise) -> Tensor:
        size = self.network.vocab_size
        return noise.normal(streams.NORMAL, step, self._block * size, rows).view(-1, self._block, size)

    def _encode(self, context: Tensor, x: Tensor, t: float) -> Tensor:
        self.ledger.denoiser_rows += len(x)
        return self.network.encode_all(context, x, t)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return the (R, C, V) logits of the block, given the hidden states of what is before it and of the block."""
        # Contiguous, so that what is kept between windows goes through the same kernels, and rounds the same, as what is not.
        hidden = hidden[:, -self._block :].contiguous()
        self.ledger.head_positions += hidden.shape[0] * hidden.shape[1]
        logits = self.network.logits(hidden).float()
        logits = logits if self._guidance is None else self._guidance(logits)
        return logits / self._temperature


def _assemble(parts: Sequence[tuple[Tensor, Tensor]], ids: Tensor) -> Tensor:
    """Make one (M, W, D) tensor for (M, W) ids out of chunks and the rows they belong to; 0 behind those that are shorter."""
    out = parts[0][1].new_zeros((*ids.shape, parts[0][1].shape[-1]))
    for rows, part in parts:
        out[rows, : part.shape[1]] = part
    return out
