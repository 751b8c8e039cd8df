"""Equal cost: what is interpolated, and between what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fktext.settings import Settings
from fktext_evals import Judge, Method, Results, Suite
from fktext_evals.compute import at_equal_cost, cost
from fktext_evals.reporting import report
from fktext_evals.running.results import Row

PROMPTS, SAMPLES = 6, 3


def made(curve: dict[int, tuple[float, float]], own: tuple[float, float]) -> tuple[Results, Method]:
    """A run of best-of-n at some N, each with (cost, value), and of FK at 4 particles; a value is plus an effect of the prompt."""
    methods = [Method("best-of-n", Settings(method="best-of-n", particles=n)) for n in curve]
    steered = Method("fk", Settings(particles=4))
    suite = Suite(
        "made",
        "a test",
        tuple(map(str, range(PROMPTS))),
        ("letters",),
        (*methods, steered),
        (Judge("j", "letters", "l", kind="mean"),),
        samples=3,
    )
    rows: list[Row] = []
    for method, (price, value) in zip((*methods, steered), (*curve.values(), own), strict=True):
        rows += [
            {
                "method": method.name,
                "particles": method.settings.particles,
                "seed": 0,
                "prompt_index": prompt,
                "sample": sample,
                "text": "",
                "seconds": price,
                "denoiser_rows": 10 * price,
                "reward_calls": 3 * price,
                "judges": {"j": value + 10 * prompt},
                "value": value + 10 * prompt,
            }
            for prompt in range(PROMPTS)
            for sample in range(SAMPLES)
        ]
    return Results(Path(), suite, {}, rows), steered


def value(rows: Sequence[Row]) -> list[float]:
    return [row["value"] for row in rows]


def matched(curve: dict[int, tuple[float, float]], own: tuple[float, float]) -> Any:
    results, steered = made(curve, own)
    return at_equal_cost(results, steered, "best-of-n", value, "seconds")


def test_interpolates_in_the_logarithm_of_the_cost() -> None:
    found = matched({2: (1.0, 0.1), 8: (4.0, 0.3), 32: (16.0, 0.9)}, (8.0, 0.8))
    assert found.cost == 8.0
    assert found.particles == pytest.approx(16)
    assert found.difference.mean == pytest.approx(0.8 - 0.6)  # half way between 4 and 16 seconds is 8
    # prompts differ by tens, yet the pairs all say the same
    assert found.difference.high - found.difference.low < 1e-9


def test_at_a_cost_that_was_run_nothing_is_interpolated() -> None:
    for price, expected in ((1.0, 0.1), (4.0, 0.3), (16.0, 0.9)):
        found = matched({2: (1.0, 0.1), 8: (4.0, 0.3), 32: (16.0, 0.9)}, (price, 0.5))
        assert found.difference.mean == pytest.approx(0.5 - expected)


@pytest.mark.parametrize(("price", "particles", "share"), [(0.5, 2, 0.5), (32.0, 8, 8.0)])
def test_beyond_what_was_run_nothing_is_said(price: float, particles: int, share: float) -> None:
    found = matched({2: (1.0, 0.1), 8: (4.0, 0.3)}, (price, 0.5))
    assert found.difference is None
    assert (found.particles, found.share) == (particles, share)


def test_a_cost_of_zero_and_values_that_are_infinite() -> None:
    found = matched({2: (0.0, 0.0), 8: (4.0, 0.4)}, (1.0, 0.5))
    assert found.difference.mean == pytest.approx(0.4)
    assert math.isnan(matched({2: (1.0, 0.1), 8: (4.0, math.inf)}, (2.0, 0.5)).difference.mean)


def test_the_report_has_it_by_rows_and_calls_and_seconds() -> None:
    results, _ = made({2: (1.0, 0.1), 8: (4.0, 0.3), 32: (16.0, 0.9)}, (8.0, 0.8))
    cells = ["fk - best-of-n", "4"], ["16.0", "+0.200 [+0.200, +0.200]"]
    assert report.equal_costs(results) == [
        [*cells[0], "80.0 rows", *cells[1]],
        [*cells[0], "24.0 reward calls", *cells[1]],
        [*cells[0], "8.00 seconds", *cells[1]],
    ]
    beyond, _ = made({2: (1.0, 0.1), 8: (4.0, 0.3)}, (8.0, 0.8))
    assert report.equal_costs(beyond)[2] == [*cells[0], "8.00 seconds", "2.0 x the seconds of N = 8", ""]
    single, _ = made({8: (8.0, 0.3)}, (8.0, 0.8))
    assert report.equal_costs(single) == []  # a point is no curve


def test_a_share_that_no_text_has_is_uncertain_on_all_sides() -> None:
    results, steered = made({2: (1.0, 0.0), 8: (4.0, 0.0)}, (2.0, 0.0))
    found = at_equal_cost(results, steered, "best-of-n", lambda rows: [0.0] * len(rows), "seconds", shares=True)
    assert found is not None
    assert found.difference is not None
    assert found.difference.mean == 0
    reach = 1 - 0.025 ** (1 / (PROMPTS * SAMPLES))  # of one share
    assert (found.difference.low, found.difference.high) == pytest.approx((-reach, reach))


def test_only_texts_that_all_have_are_compared() -> None:
    results, steered = made({2: (1.0, 0.1), 8: (4.0, 0.3)}, (2.0, 0.5))
    gone = [row for row in results.rows if not (row["particles"] == 8 and row["prompt_index"] > 2)]
    part = Results(results.folder, results.suite, {}, gone)
    found = at_equal_cost(part, steered, "best-of-n", value, "seconds")
    assert found is not None
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.5 - 0.2)
    nothing = Results(results.folder, results.suite, {}, [row for row in results.rows if row["method"] == "fk"])
    assert at_equal_cost(nothing, steered, "best-of-n", value, "seconds") is None
    assert at_equal_cost(results, steered, "base", value, "seconds") is None
    assert cost(results.of(steered.key), "seconds") == 2.0
