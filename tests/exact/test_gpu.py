"""The same bits and the same laws on a CUDA device: `tox -e gpu`."""

import pytest
import torch

from fktext.smc import RESAMPLERS
from fktext.smc.noise import TOKEN, Noise, population_key
from fktext.testing import selftest
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import run_case

pytestmark = pytest.mark.gpu
KEYS = [population_key(0, index) for index in range(50)]


def test_noise_has_the_same_bits():
    position = torch.arange(64)
    cpu = Noise.of(KEYS, 8).uniform(TOKEN, 3, position)
    assert torch.equal(Noise.of(KEYS, 8, "cuda").uniform(TOKEN, 3, position.cuda()).cpu(), cpu)


def test_runs_agree_with_the_cpu():
    for resampler in RESAMPLERS.values():
        here = run_case(Enumerable(), "difference", resampler, 0.95, populations=50)
        there = run_case(Enumerable(device="cuda"), "difference", resampler, 0.95, populations=50)
        assert there.samples == here.samples
        torch.testing.assert_close(there.log_z.cpu(), here.log_z)


def test_selftest_passes():
    assert [row.check for row in selftest.run(device="cuda") if not row.passed] == []
