"""Lineages: what rows keep of them, and that the drawing is a tree without crossings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fktext import trace
from fktext_evals import Results, lineage
from fktext_evals.reporting import logs
from fktext_evals.reporting.page import trace_html
from fktext_evals.reporting.trace import trace as trace_of
from fktext_evals.reporting.tree import in_words, tree


@st.composite
def ancestries(draw: Any) -> list[list[int]]:
    particles = draw(st.integers(1, 6))
    step = st.lists(st.integers(0, particles - 1), min_size=particles, max_size=particles)
    return [*draw(st.lists(step, max_size=6)), list(range(particles))]


@given(ancestries())
def test_no_branches_cross(ancestors: list[list[int]]) -> None:
    heights = lineage.order(ancestors)
    for step, (before, after) in zip(ancestors[:-1], pairwise(heights), strict=True):
        assert sorted(after) == list(range(len(step)))
        edges = sorted((after[particle], before[parent]) for particle, parent in enumerate(step))
        assert all(one <= other for (_, one), (_, other) in pairwise(edges))


@given(ancestries())
def test_roots_and_survivors_agree_with_every_line(ancestors: list[list[int]]) -> None:
    lines = [lineage.line_of(ancestors, particle) for particle in range(len(ancestors[0]))]
    assert {len(line) for line in lines} == {len(ancestors)}
    living = lineage.survivors(ancestors)
    for place, alive in enumerate(living):
        assert {particle for particle, lives in enumerate(alive) if lives} == {line[place] for line in lines}
    counts = lineage.roots(ancestors)
    assert counts[-1] == sum(living[0])
    assert counts == sorted(counts, reverse=True)


def test_rows_keep_the_lineage_of_the_first_text(whole: Results) -> None:
    for row in whole.rows:
        kept = row["lineage"]
        assert (kept is not None) == (row["seed"] == 0 and row["sample"] == 0)
        assert len(row["weighed_at"]) == len(row["ess"]) == len(row["roots"])
        assert row["roots"][-1] == row["unique_roots"]
        if kept is None:
            continue
        lineage.check(kept)
        assert (kept["k"], kept["ess"], sum(kept["resampled"])) == (row["weighed_at"], row["ess"], row["resampled"])
        assert lineage.roots(kept["ancestors"]) == row["roots"]
        assert kept["texts"][-1][kept["chosen"]] == row["continuation"]
        assert all(sum(weights) == pytest.approx(1, abs=1e-3) for weights in kept["weights"])
        if row["method"] != "base":
            assert kept["rewards"][-1][kept["chosen"]] == pytest.approx(row["reward"], abs=1e-4)
            assert kept["rewards"][-1][kept["chosen"]] == max(kept["rewards"][-1])
    assert any(sum(row["lineage"]["resampled"]) for row in whole.of(("fk", 3)) if row["lineage"]), "a test of trees needs one"


def test_a_kept_lineage_has_what_a_report_plays(whole: Results) -> None:
    kept = next(row["lineage"] for row in whole.of(("fk", 3)) if row["lineage"])
    assert None in kept["board"]
    assert [len(particles) for particles in kept["revealed"]] == [3] * len(kept["k"])
    written = {at for step in kept["revealed"] for particle in step for at, _ in particle}
    assert written == {at for at, piece in enumerate(kept["board"]) if piece is None}


def test_a_log_of_a_kept_lineage_says_what_the_row_says(whole: Results, tmp_path: Path) -> None:
    files = logs.write(whole, tmp_path / "logs", prompts=2)
    steered = [method for method in whole.suite.methods if len(whole.of(method.key)[0]["lineage"]["k"]) > 1]
    wanted = {f"{method.name}-{method.settings.particles}-{place}.jsonl" for method in steered for place in (1, 2)}
    assert {file.name for file in files} == wanted
    [row] = [row for row in whole.of(("fk", 3)) if row["lineage"] and row["prompt_index"] == 1]
    kept = row["lineage"]
    run, start, *weighings, end = trace.read(next(file for file in files if file.name == "fk-3-2.jsonl"))
    assert isinstance(run, trace.Run)
    assert isinstance(start, trace.Start)
    assert isinstance(end, trace.End)
    particles = trace.Particles(start)
    for place, weighing in enumerate(weighings):
        assert isinstance(weighing, trace.Weighing)
        particles.add(weighing)
        assert (weighing.k, list(weighing.guesses)) == (kept["k"][place], kept["texts"][place])
        assert weighing.weights == pytest.approx(kept["weights"][place], abs=1e-3)
    assert len(weighings) == start.weighings
    assert "".join(piece or "" for piece in particles.boards[end.chosen or 0]).strip() == row["text"].strip()
    assert (end.particles[end.chosen or 0].text, end.log_z) == (row["text"], row["log_z"])
    assert len({particle.ancestor for particle in end.particles}) == row["unique_roots"]
    page = trace_html(trace_of([run, start, *weighings, end], events=True))
    assert row["text"].split()[-1] in page


def test_guesses_are_the_best_of_what_was_predicted(tiny: Path) -> None:
    from fktext.models import load
    from fktext.plugins import load_plugins
    from fktext.settings import Settings
    from fktext.texts.generate import Population, generate

    settings = Settings(particles=3, samples=2, seed=7, length=8, steps=6, resample_every=2, x0_samples=4)
    term = load_plugins().create("letters")
    both = [
        [item for item in generate(load(str(tiny)), [term], ["the city"], settings, guesses=wanted) if isinstance(item, Population)]
        for wanted in (False, True)
    ]
    for plain, kept in zip(*both, strict=True):
        assert plain.guesses == ()
        assert (plain.texts, plain.log_z) == (kept.texts, kept.log_z)
        assert list(kept.guesses[-1]) == kept.texts
        for step, texts in zip(kept.steps, kept.guesses, strict=True):
            assert len(texts) == 3
            best = step.values[:, :, 0].max(-1).values.tolist()
            assert [float(value) for value in term.reward.score(texts)] == pytest.approx(best)


def test_long_texts_are_cut(whole: Results) -> None:
    row = whole.of(("fk", 3))[0]
    assert lineage._cut("abcdef", 4) == "abc…"
    assert lineage._cut("abcd", 4) == "abcd"
    assert row["lineage"] is not None


def test_the_drawing_has_every_particle_and_its_parent(whole: Results) -> None:
    kept = whole.of(("fk", 3))[0]["lineage"]
    drawn = tree(kept, "fk")
    assert drawn.count('<circle class="node') == 9
    assert drawn.count('<path class="edge') == 6
    assert drawn.count("edge lives chosen") == 2
    assert drawn.count("returned") == 2  # the dot, and in words
    assert drawn.count('class="bar full"') == sum(kept["resampled"])
    assert in_words(kept) in drawn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [2]}, "has 3 weighings, k has 1"),
        ({"ancestors": [[0, 1, 3]] * 3}, "an ancestor is not one of the particles"),
        ({"rewards": [[0.0]] * 3}, "rewards does not have 3 particles"),
        ({"chosen": 3}, "the chosen one is not one of the particles"),
        ({"weights": None}, "it is not a lineage"),
    ],
)
def test_damaged(whole: Results, change: dict[str, Any], message: str) -> None:
    kept = whole.of(("fk", 3))[0]["lineage"]
    with pytest.raises(ValueError, match=message):
        lineage.check({**kept, **change})


def test_a_watched_lineage_is_played_with_its_tokens(tiny: Path) -> None:
    """What a row keeps of a watched population is enough for the page; without texts on the way there is nothing to play."""
    import fktext

    def letters(texts: Any) -> list[float]:
        return [float(str(text).count("e")) for text in texts]

    asked: dict[str, Any] = {"particles": 3, "length": 8, "steps": 6, "resample_every": 2}
    [population] = fktext.generate(str(tiny), letters, "the book", watch=True, **asked)
    kept = lineage.of(population, population.best())
    start, *weighings, end = lineage.played(kept, "the book")
    assert (start["board"], end["chosen"]) == (list(population.events[0].board), population.best())  # type: ignore[union-attr]
    told = [event for event in population.events if isinstance(event, trace.Weighing)]
    assert [event["revealed"] for event in weighings] == [trace.plain(event)["revealed"] for event in told]
    assert [event["k"] for event in weighings] == [2, 4, 6]
    [unwatched] = fktext.generate(str(tiny), letters, "the book", **asked)
    assert "board" not in lineage.of(unwatched, 0)
    assert lineage.played(lineage.of(unwatched, 0), "the book") == []
