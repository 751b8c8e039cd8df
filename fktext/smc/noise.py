"""Counter-based randomness: every draw is a pure function of who asks for it.

A uniform is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") of a 64-bit population key and the
counter (stream, particle slot, step, position). So a result does not depend on batch size, on the order of prompts, on chunking, or
on the number of processes; the bits are the same on CPU and GPU because only integer operations are used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Streams keep draws made for different purposes apart. Stream X0 + s belongs to x0 sample s, so X0 is last.
RESAMPLE, RETURN, REVEAL, TOKEN, NORMAL, X0 = 0, 1, 2, 3, 4, 16

_LOW32 = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _mulhilo(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low 32 bits of factor * word, both below 2^32, without leaving int64."""
    low = factor * (word & 0xFFFF)
    high = factor * (word >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: Sequence[Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run ten rounds of Philox4x32 on 32-bit words held in int64 tensors that broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _mulhilo(_MULTIPLIER[0], c0)
        high1, low1 = _mulhilo(_MULTIPLIER[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW32, (k1 + _WEYL[1]) & _LOW32
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Noise:
    """The random source of M = B * N particles.

    Attributes:
        key: (M,) int64, the key of the population each particle belongs to.
        slot: (M,) int64, the particle's place in its population, 0 .. N - 1. Noise belongs to the slot, not to the lineage: a
            particle that replaces another draws from the slot it moves into.
    """

    key: Tensor
    slot: Tensor

    @classmethod
    def of(cls, keys: Sequence[int], particles: int, device: torch.device | str = "cpu") -> Noise:
        """Make noise for one population of `particles` per key; a key is any 64-bit integer (see `population_key`)."""
        signed = [key - (1 << 64) if key >= 1 << 63 else key for key in keys]
        key = torch.tensor(signed, dtype=torch.int64, device=device).repeat_interleave(particles)
        return cls(key, torch.arange(particles, device=device).repeat(len(keys)))

    def uniform(self, stream: Tensor | int, step: Tensor | int, position: Tensor | int, rows: Tensor | None = None) -> Tensor:
        """Draw uniforms on (0, 1), float64 with 52 random bits, never 0 and never 1.

        Args:
            stream: what the draw is for, one of this module's constants (or a tensor of them that broadcasts).
            step: reverse step, an int or a tensor that broadcasts against `rows` and `position`.
            position: token position (or pixel index), likewise.
            rows: int64 particle indices; default all M of them, as a column (M, 1) when `position` is a tensor.

        Returns:
            float64 of the broadcast shape.
        """
        device = self.key.device
        if rows is None:
            rows = torch.arange(len(self.key), device=device)
            rows = rows[:, None] if isinstance(position, Tensor) else rows
        key = self.key[rows]
        # `full`, because a GPU waits for a number that `as_tensor` copies to it
        place, time, purpose = (
            value if isinstance(value, Tensor) else torch.full((), value, device=device) for value in (position, step, stream)
        )
        counter = (place, time, self.slot[rows], purpose)
        high, low, _, _ = philox(torch.broadcast_tensors(*counter), (key & _LOW32, (key >> 32) & _LOW32))
        bits = (high >> 6 << 26) | (low >> 6)
        return (bits.double() + 0.5) * 2.0**-52

    def normal(self, stream: int, step: int, count: int, rows: Tensor) -> Tensor:
        """Draw standard normals, float32, from 32 random bits each: all lie within 6.4 of zero.

        Args:
            stream: what the draw is for.
            step: reverse step.
            count: normals per row; drawn four to a counter, with the position counting fours.
            rows: (R,) int64 particle indices.

        Returns:
            (R, count).
        """
        place = torch.arange((count + 3) // 4, device=rows.device)
        counter = (place, torch.full_like(place, step), self.slot[rows][:, None], torch.full_like(place, stream))
        key = self.key[rows][:, None]
        words = philox(torch.broadcast_tensors(*counter), (key & _LOW32, (key >> 32) & _LOW32))
        uniforms = (torch.stack(words, -1).flatten(1)[:, :count].double() + 0.5) * 2.0**-32
        normals: Tensor = torch.special.ndtri(uniforms)
        return normals.float()

    def populations(self, stream: int, step: int, particles: int, draws: int) -> Tensor:
        """Draw (B, draws) uniforms of populations, not of particles: for resampling and for choosing what to return."""
        first = torch.arange(0, len(self.key), particles, device=self.key.device)
        return self.uniform(stream, step, torch.arange(draws, device=first.device), first[:, None])


def population_key(seed: int, *name: object) -> int:
    """Make a 64-bit key of the run's seed and a population's name (prompt, repetition), the same on every machine.

    Example:
        >>> population_key(0, "The book", 1) == population_key(0, "The book", 1) != population_key(0, "The book", 2)
        True
    """
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=8, person=b"fktext").digest()
    return int.from_bytes(digest, "little")
