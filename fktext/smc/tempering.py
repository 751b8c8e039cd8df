"""Temper adaptively: hold back a tilt that would leave too few effective particles.

A weighing before the end weighs by phi^tau in the place of phi, the product of potentials so far (`fktext.smc.potentials`). Each
population raises its own tau, from 0 at the start, as far as its effective sample size allows: strong tilts and early, noisy
guesses then choose among particles little by little, not at once. The last weighing is by exp(lambda * r) in full.

Whatever tau is, also one that was found by looking at these very particles, estimates of Z and of sums under the tilted law are
unbiased at any number of particles, for the engine divides by what it really weighed with. A particle whose log-weight is
tau * log_phi - base is copied N * W times on average, its copies start from the base tau * log_phi, and so

    E[Z_hat * sum over its copies of exp(-base)] = the same of the particle itself,

in which tau is no more. All that is asked of tau is that it is known before copies are drawn, and that particles move by a law
that does not depend on it: the freedom that adaptive resampling uses too (Whiteley, Lee and Heine 2016, "On the role of
interaction in sequential Monte Carlo algorithms"). Tempered SMC samplers do not have it: they move particles by a kernel that
leaves p * phi^tau invariant (Chopin and Papaspiliopoulos 2020, chapter 17), so with a tau chosen on the fly their estimate is
consistent but biased (Beskos et al. 2016, "On the convergence of adaptive sequential Monte Carlo methods").
`tests/exact/test_tempering.py` shows both. What is only consistent here is what always is: log Z_hat, and means under normalised
weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fktext.smc.weights import ess

HALVINGS = 40  # of the interval that tau is looked for in: to 1e-12


def temper(log_phi: Tensor, base: Tensor, tau: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
    """Raise tau as far as the effective sample size of the weights exp(tau * log_phi - base) stays at `share` of N or above.

    It is found by bisection, without waiting for the device, and is never lower than before: where even the last tau leaves fewer
    effective particles, it stays. As tau grows the effective sample size falls as a rule, not always; what is found always keeps
    the share, but a larger tau might keep it too.

    Args:
        log_phi: (B, N) log of the product of potentials so far, in nats.
        base: (B, N) the tempered log_phi of each lineage when its weights were last reset, in nats.
        tau: (B,) of the last weighing, in [0, 1].
        share: of N, in (0, 1); None weighs in full.

    Returns:
        (B,) the new tau; and (B, N) the tempered log_phi, tau * log_phi.

    Source: Jasra et al. 2011, "Inference for Levy-driven stochastic volatility models via adaptive sequential Monte Carlo".

    Example:
        Two populations of two particles. The first may be weighed in full; in the second the square root of phi, 1 and 3, leaves
        (1 + 3)^2 / (1 + 9) = 1.6 effective particles of two.

        >>> phi = torch.tensor([[1.0, 1.1], [1.0, 9.0]])
        >>> temper(phi.log(), torch.zeros(2, 2), torch.zeros(2), 0.8)[0]
        tensor([1.0000, 0.5000])
    """
    low, high = tau, torch.ones_like(tau)
    if share is None:
        return high, log_phi
    trial = high
    for _ in range(HALVINGS):
        few = ess(_power(trial, log_phi) - base) < share * log_phi.shape[-1]
        low, high = torch.where(few, low, trial), torch.where(few, trial, high)
        trial = (low + high) / 2
    return low, _power(low, log_phi)


def _power(tau: Tensor, log_phi: Tensor) -> Tensor:
    """Return log(phi^tau), (B, N), where 0^0 is 1."""
    return torch.where(tau[:, None] > 0, tau[:, None] * log_phi, 0.0)
