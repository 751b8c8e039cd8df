"""The checks of parts that others write: the engine's own pass, and each mistake is told from the others."""

from dataclasses import replace

import pytest
import torch

from fktext.masked.kernels import KERNELS, Kernel
from fktext.masked.process import MaskedDiffusion
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Sight
from fktext.smc.potentials import Difference
from fktext.smc.schedules import At, Every
from fktext.testing import check_kernel, check_look_ahead, check_potential, check_resampler, check_schedule
from fktext.testing.lookaheads import adversary


class Square(Difference):
    """The sign-keeping square of the log-tilt: strange, and right, for the engine closes the product."""

    def __call__(self, log_tilt, carry):
        return log_tilt * log_tilt.abs(), carry


class Endless(Difference):
    def __call__(self, log_tilt, carry):
        return log_tilt.masked_fill(log_tilt < 0, -torch.inf), carry


class Narrow(Difference):
    def init(self, log_tilt):
        return (log_tilt[:, :1],)


def test_parts_that_are_right_pass():
    check_potential(Square(), populations=500)
    check_resampler(RESAMPLERS["stratified"], populations=500)
    check_look_ahead(adversary, populations=500)
    check_kernel(KERNELS["first-hitting"], populations=1000)
    check_schedule(Every(7))


@pytest.mark.parametrize(
    ("potential", "error"), [(Endless(), "log_phi is not finite"), (Narrow(), r"shapes .*\(2, 1\).*expected \(2, 4\)")]
)
def test_a_potential_that_loses_particles_is_caught(potential, error):
    with pytest.raises(AssertionError, match=error):
        check_potential(potential)


def first(weights, uniforms):
    """All offspring to the heaviest: a search, and no resampling."""
    return torch.nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]) * weights.shape[-1]


def flat(weights, uniforms):
    return torch.ones_like(weights, dtype=torch.int64)


def short(weights, uniforms):
    counts = RESAMPLERS["systematic"].counts(weights, uniforms)
    return torch.where(counts == counts.amax(-1, keepdim=True), counts - 1, counts)


@pytest.mark.parametrize(
    ("counts", "error"), [(first, "biased"), (flat, "weight zero has offspring"), (short, "do not add up to 1")]
)
def test_a_resampler_that_is_none_is_caught(counts, error):
    with pytest.raises(AssertionError, match=error):
        check_resampler(replace(RESAMPLERS["systematic"], counts=counts))


class Late:
    def weighings(self, num_steps):
        return (num_steps // 2,)


class Twice:
    def weighings(self, num_steps):
        return (num_steps, num_steps)


@pytest.mark.parametrize(("schedule", "error"), [(Late(), "expected the last step, 1"), (Twice(), "not ascending")])
def test_a_schedule_that_forgets_the_end_is_caught(schedule, error):
    with pytest.raises(AssertionError, match=error):
        check_schedule(schedule)
    check_schedule(At([1]))


def hopeless(process, scorer, state, k, noise, lam, particles):
    sight, state = adversary(process, scorer, state, k, noise, lam, particles)
    return Sight(sight.samples, sight.values, sight.reward, torch.full_like(sight.log_tilt, -torch.inf), sight.told), state


def test_a_look_ahead_that_gives_up_is_caught():
    with pytest.raises(AssertionError, match="log_tilt is not finite"):
        check_look_ahead(hopeless)


class Stops(MaskedDiffusion):
    """Draws anew at every stop: its texts depend on where particles are weighed."""

    def advance(self, state, k, k_next, noise):
        state = super().advance(state, k, k_next, noise)
        return replace(state, ids=torch.where(state.ids == 0, (k_next - k) % 2, state.ids)) if k else state


class Unfinished(MaskedDiffusion):
    def advance(self, state, k, k_next, noise):
        return super().advance(state, k, min(k_next, self.num_steps - 1), noise)


class Slots(MaskedDiffusion):
    """Keeps something of a particle in its slot, where resampling cannot find it: the last two tokens of its texts are alike."""

    def advance(self, state, k, k_next, noise):
        state = super().advance(state, k, k_next, noise)
        ids, own = state.ids.clone(), torch.arange(len(state.ids)) % self._particles % 2
        if k == 0:
            ids[:, 1] = own
        if k_next == self.num_steps:
            ids[:, 2] = own
        return replace(state, ids=ids, known=torch.zeros_like(state.known))


@pytest.mark.parametrize(
    ("kernel", "error"),
    [
        (Kernel("stops", Stops), "where the particles are weighed"),
        (Kernel("unfinished", Unfinished), "stay masked"),
        (Kernel("slots", Slots), "do not follow"),
    ],
)
def test_a_kernel_without_a_law_is_caught(kernel, error):
    with pytest.raises(AssertionError, match=error):
        check_kernel(kernel, populations=1000)
