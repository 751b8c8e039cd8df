"""Cells: where a suite is cut does not depend on who does what, and nothing is left out or made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fktext_evals import Suite, load
from fktext_evals.running.cells import batch_of, cells


@pytest.fixture
def suite(suite_file: Path) -> Suite:
    return load(str(suite_file))


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_are_the_whole(suite: Suite, parts: int) -> None:
    whole = cells(suite, (), 6)
    mine = [cells(suite, (), 6, (part, parts)) for part in range(1, parts + 1)]
    assert sorted(map(str, whole)) == sorted(str(cell) for each in mine for cell in each)
    keys = [key for cell in whole for key in cell.keys]
    assert len(keys) == len(set(keys)) == suite.texts
    assert all(cell.particles <= 6 for cell in whole)


def test_what_is_there_is_left_out_and_moves_no_border(suite: Suite) -> None:
    whole = cells(suite, (), 4)
    left = cells(suite, {whole[1].keys[0], *whole[3].keys}, 4)
    assert [cell.wanted for cell in left] == [
        cell.wanted[1:] if place == 1 else cell.wanted for place, cell in enumerate(whole) if place != 3
    ]


def test_further_prompts_keep_the_cells_that_are_full(suite: Suite) -> None:
    before = cells(suite.limited(2), (), 4)
    assert {cell for cell in before if cell.method == ("fk", 2)} <= set(cells(suite, (), 4))


def test_a_population_larger_than_a_batch_is_a_cell(suite: Suite) -> None:
    assert {len(cell.wanted) for cell in cells(suite, (), 1)} == {1}


def test_a_method_that_fits_a_value_first_is_not_cut(suite: Suite) -> None:
    fk = suite.methods[2]
    fitted = replace(suite, methods=(replace(fk, settings=replace(fk.settings, look_ahead="value:fit")),))
    assert [len(cell.wanted) for cell in cells(fitted, (), 2)] == [6, 6]


def test_the_batch_size_where_nobody_says(suite: Suite) -> None:
    assert [batch_of(suite, None, device) for device in ("cpu", "cuda:1")] == [64, 1024]
    assert batch_of(suite, 7, "cuda") == 7


@pytest.mark.parametrize("name", ["paper-toxicity", "toxicity"])
def test_batches_of_a_whole_suite_are_full(name: str) -> None:
    """Over its methods, weighted by their batches; batches of one method and seed take prompts and samples together."""
    found = cells(load(name), (), 64)
    room = sum(64 // cell.method[1] * cell.method[1] for cell in found)
    assert sum(cell.particles for cell in found) >= 0.9 * room
