"""The verdict on top of a report says what the rows say, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from fktext_evals import Results
from fktext_evals.reporting.verdict import direction, judging, verdict
from fktext_evals.suites.suite import Judge


def with_odds(whole: Results, odds: dict[tuple[str, int], float], seconds: dict[tuple[str, int], float] | None = None) -> Results:
    """Let the held-out judge count so many of the 4 texts of each prompt, and methods cost so many seconds."""
    held_out = whole.suite.judges[1]
    place: dict[Any, int] = {}
    rows = []
    for row in whole.rows:
        who = row["method"], row["particles"]
        number = place[who, row["prompt_index"]] = place.get((who, row["prompt_index"]), -1) + 1
        hit = number < round(4 * odds.get(who, 0.0))
        rows.append({**row, "judges": {**row["judges"], held_out.name: 0.0 if hit else -20.0}})
        rows[-1] |= {"seconds": (seconds or {}).get(who, 1.0 * row["particles"])}
    return replace(whole, rows=rows)


def same_label(results: Results) -> Results:
    """Let the held-out judge judge what the steering judge judges."""
    judges = (results.suite.judges[0], replace(results.suite.judges[1], label="e-ful"))
    return replace(results, suite=replace(results.suite, judges=judges))


def several(results: Results) -> Results:
    """Add a best-of-n of 8 particles that costs 8 seconds and never hits."""
    more = next(method for method in results.suite.methods if method.name == "best-of-n")
    eight = replace(more, settings=replace(more.settings, particles=8))
    rows = [{**row, "particles": 8, "seconds": 8.0} for row in results.of(more.key)]
    methods = (*results.suite.methods, eight)
    return replace(results, suite=replace(results.suite, methods=methods), rows=[*results.rows, *rows])


def test_a_clear_winner_at_equal_seconds(whole: Results) -> None:
    found = verdict(several(with_odds(same_label(whole), {("fk", 3): 1.0})))
    assert found.startswith(
        "At equal seconds fk (N = 3) beats best-of-n: by the held-out judge the e-ful share of fk is 100.0 points"
    )
    low, high = found.split("95 % interval ")[1].removesuffix(").").split(" to ")
    assert 0 < float(low) < float(high) == 100


def test_best_of_n_may_win(whole: Results) -> None:
    found = verdict(several(with_odds(same_label(whole), {("best-of-n", 2): 1.0, ("best-of-n", 8): 1.0})))
    assert "best-of-n beats fk (N = 3)" in found
    assert "100.0 points lower (95 % interval -100.0 to -" in found


def test_no_clear_difference(whole: Results) -> None:
    found = verdict(several(with_odds(same_label(whole), {("fk", 3): 0.25})))
    assert "there is no clear difference between fk (N = 3) and best-of-n" in found
    assert "25.0 points higher (95 % interval -" in found


def test_where_no_cost_is_equal_it_is_at_equal_n(whole: Results) -> None:
    found = verdict(with_odds(same_label(whole), {("fk", 2): 1.0}, {("fk", 2): 90.0, ("fk", 3): 90.0, ("best-of-n", 2): 30.0}))
    assert found.startswith("At equal N, which takes 3.0 times the seconds, fk (N = 2) beats best-of-n")


def test_a_judge_of_something_else_makes_nobody_win(whole: Results) -> None:
    found = with_odds(whole, {("fk", 3): 1.0})
    assert judging(found.suite).name == "steering", "what the other judges is not what was steered"
    only = replace(found, suite=replace(found.suite, judges=found.suite.judges[1:]))
    assert (judging(only.suite).name, direction(only.suite, only.suite.judges[0])) == ("held-out", 0)
    assert "fk (N = 3) differs from best-of-n" in verdict(several(only))
    assert "No judge was held out: this is what was optimised." in verdict(found)


@pytest.mark.parametrize(
    ("rewards", "kind", "goal"),
    [
        (("letters",), "share", 1),
        (("letters=-2",), "share", -1),
        (("letters:part=all",), "share", 1),
        (("letters",), "perplexity", -1),
        (("letters:letter=b",), "share", 0),
        (("letters:letter=b", "letters"), "mean", 1),
    ],
)
def test_which_way_is_better(
    whole: Results, rewards: tuple[str, ...], kind: Literal["share", "perplexity", "mean"], goal: int
) -> None:
    judges = (Judge("steering", "letters", "x", kind=kind), Judge("held-out", "letters:letter=a", "x", kind=kind))
    suite = replace(whole.suite, rewards=rewards, judges=judges)
    assert direction(suite, judging(suite)) == goal


def test_of_several_methods_it_is_the_best(whole: Results) -> None:
    found = several(with_odds(same_label(whole), {("fk", 2): 0.5, ("fk", 3): 0.5}))
    method = next(method for method in found.suite.methods if method.key == ("fk", 3))
    other = replace(method, name="other")
    rows = [{**row, "method": "other"} for row in found.of(("best-of-n", 2))]
    both = replace(found, suite=replace(found.suite, methods=(*found.suite.methods, other)), rows=[*found.rows, *rows])
    both = replace(both, rows=[{**row, "particles": 3, "seconds": 3.0} if row["method"] == "other" else row for row in both.rows])
    assert "fk (N = 3, the best of 2 steered methods)" in verdict(both)


def test_nothing_to_compare(whole: Results) -> None:
    assert verdict(replace(whole, rows=[])) == ""
    assert verdict(replace(whole, rows=whole.of(("fk", 2)))) == ""
    dead = [{**row, "text": None} if row["method"] == "fk" else row for row in whole.rows]
    assert verdict(replace(whole, rows=dead)) == ""


def test_one_prompt_has_no_interval_and_a_run_may_be_unfinished(whole: Results) -> None:
    one = replace(whole, rows=[row for row in whole.rows if row["prompt_index"] == 0])
    found = verdict(with_odds(same_label(one), {("fk", 2): 1.0}, {("fk", 2): 90.0, ("fk", 3): 90.0}))
    assert found.startswith("So far: At equal N")
    assert "no clear difference" in found
    assert "too few prompts for an interval" in found


def test_infinite_values_are_not_compared(whole: Results) -> None:
    rows = [{**row, "judges": {**row["judges"], "held-out": None}} for row in whole.rows]
    found = same_label(replace(whole, rows=rows))
    judges = tuple(replace(judge, kind="mean", threshold=0.5) for judge in found.suite.judges)
    assert verdict(replace(found, suite=replace(found.suite, judges=judges))) == ""
