"""When particles are weighed."""

import pytest
import torch

from fktext.errors import UsageError
from fktext.masked.kernels import KERNELS
from fktext.smc.noise import Noise
from fktext.smc.schedules import At, Every
from fktext.testing.enumerable import Enumerable


def test_the_last_step_is_weighed_exactly_once():
    assert Every(20).weighings(1000) == tuple(range(20, 1001, 20))
    assert Every(30).weighings(100) == (30, 60, 90, 100)
    assert Every(500).weighings(100) == (100,)
    assert At([]).weighings(7) == (7,)
    assert At([7, 3, 3]).weighings(7) == (3, 7)


def test_windows():
    assert Every(10, start=20, end=50).weighings(100) == (30, 40, 50, 100)


@pytest.mark.parametrize("make", [lambda: Every(0), lambda: Every(5, start=9, end=9), lambda: At([0]).weighings(5)])
def test_impossible_schedules_are_refused(make):
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize(
    "kernel", ["ancestral", "first-hitting", "any-order", "remdm-cap", "remdm-rescale", "remdm-loop", "sedd-analytic"]
)
def test_steps_are_progress_but_for_two_kernels(kernel):
    model, particles, steps = Enumerable(length=4), 3000, 8
    masks = torch.full((1, 4), model.denoiser.mask_id)
    process = KERNELS[kernel].build(model.denoiser, masks, particles, steps, list)
    noise = Noise.of([0], particles)
    state, known = process.init(noise), []
    for k in range(2, steps, 2):
        state = process.advance(state, k - 2, k, noise)
        known.append(float((state.ids != model.denoiser.mask_id).double().mean()))
    even = known == pytest.approx([2 / 8, 4 / 8, 6 / 8], abs=0.03)
    assert even == (kernel not in ("remdm-loop", "sedd-analytic")), known
