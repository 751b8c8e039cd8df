"""Feynman-Kac potentials: how intermediate rewards become weights.

A potential turns the log-tilts a lineage has seen so far, g_k = lambda * r_k, into the logarithm of the product of its
potentials up to now, `log_phi`. The engine weighs a particle by the change of log_phi since its weights were last reset, and
closes the product itself: at the last step log_phi is the log-tilt lambda * r(x0) of the returned sample, whatever the potential
said before. So every potential, a user's own included, aims at p(x) * exp(lambda * r(x)); they differ only in how fast they get
there.

Source: Singhal et al. 2025 (arXiv 2501.06848), section 3.3. The authors' released code closes `max` and `sum` with the running
statistic instead, which aims at another law.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

Carry = tuple[Tensor, ...]


class Potential(Protocol):
    """A running product of potentials; stateless itself, its memory of a lineage is the carry."""

    def init(self, log_tilt: Tensor) -> Carry:
        """Return the carry before the first weighing: tensors (B, N) shaped like `log_tilt`."""
        ...

    def __call__(self, log_tilt: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Weigh once.

        Args:
            log_tilt: (B, N) lambda * r in nats, finite or -inf.
            carry: what `init` or the last call returned, following each particle through resampling.

        Returns:
            log_phi (B, N), the log of the product of all potentials so far, and the new carry.
        """
        ...


class Difference:
    """G_k = exp(lambda (r_k - r_{k-1})): favours particles that improve; log_phi is the present log-tilt."""

    def init(self, log_tilt: Tensor) -> Carry:
        """Carry nothing: the sum of differences telescopes."""
        return ()

    def __call__(self, log_tilt: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return log_phi = lambda r_k."""
        return log_tilt, carry


class Max:
    """G_k = exp(lambda max_{j <= k} r_j): favours particles whose best prediction so far is high."""

    def init(self, log_tilt: Tensor) -> Carry:
        """Start the running maximum at -inf, not at 0, so that rewards that are never positive still steer."""
        return torch.full_like(log_tilt, -torch.inf), torch.zeros_like(log_tilt)

    def __call__(self, log_tilt: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return log_phi = sum_{i <= k} max_{j <= i} lambda r_j."""
        best = torch.maximum(carry[0], log_tilt)
        log_phi = carry[1] + best
        return log_phi, (best, log_phi)


class Sum:
    """G_k = exp(lambda sum_{j <= k} r_j): favours particles whose predictions were high all along."""

    def init(self, log_tilt: Tensor) -> Carry:
        """Start the running sum and the sum of running sums at 0."""
        return torch.zeros_like(log_tilt), torch.zeros_like(log_tilt)

    def __call__(self, log_tilt: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return log_phi = sum_{i <= k} sum_{j <= i} lambda r_j."""
        total = carry[0] + log_tilt
        log_phi = carry[1] + total
        return log_phi, (total, log_phi)


class Terminal:
    """G_k = 1 until the end: importance sampling, and the ground on which best-of-n stands."""

    def init(self, log_tilt: Tensor) -> Carry:
        """Carry nothing."""
        return ()

    def __call__(self, log_tilt: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return log_phi = 0."""
        return torch.zeros_like(log_tilt), carry


POTENTIALS: Mapping[str, Potential] = {"difference": Difference(), "max": Max(), "sum": Sum(), "terminal": Terminal()}
