"""What a run costs is counted."""

import itertools
import time

import pytest

from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.testing.enumerable import Enumerable


def test_the_time_of_blocks_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.5, 10.0, 10.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    ledger = Ledger()
    for _ in range(2):
        with ledger.denoising():
            pass
    assert ledger == Ledger(denoiser_seconds=2.75)


def test_a_process_counts_the_time_of_each_call_that_runs_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    process, noise = Enumerable(num_steps=4).process(1, 2), Noise.of([1], 2)
    state = process.init(noise)
    assert process.ledger.denoiser_seconds == 0
    state = process.advance(state, 0, 2, noise)
    assert process.ledger.denoiser_seconds == 1
    _, state = process.predict(state, 2, noise, 1)
    assert process.ledger.denoiser_seconds == 2
    process.predict(process.advance(state, 2, 4, noise), 4, noise, 1)  # the state itself: no network
    assert process.ledger.denoiser_seconds == 3
