"""The event log: what a run tells, that its lines say the same, and that it is read as far as it was written."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

import fktext
from fktext.errors import UsageError
from fktext.population import Population
from fktext.texts.board import Pieces
from fktext.trace import End, Event, Particles, Run, Start, Weighing, parse, read, to_line
from tiny import mdlm

RUN = Run({"seed": 3, "settings": {"lam": 2.0}}, 4)
ASKED = {
    "length": 8,
    "steps": 6,
    "resample_every": 2,
    "particles": 3,
    "samples": 2,
    "seed": 3,
    "lam": 2.0,
    "look_ahead": "predictions",
}


def letters(texts):
    return [float(str(text).count("e")) for text in texts]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fktext.load(str(mdlm(tmp_path_factory.mktemp("model") / "tiny", default_length=8, default_steps=6)))


def watched(model, *prompts, **asked) -> tuple[list[Event], list[Population]]:
    """What a run tells as it goes on, and its populations."""
    events, found = [], []
    for item in fktext.stream(model, letters, prompts, watch=True, **{**ASKED, **asked}):
        if isinstance(item, Population):
            found.append(item)
            events.append(item.end())
        else:
            events += item.events
    return events, found


def test_lines_say_what_the_events_do(model, tmp_path):
    events, populations = watched(model, "the book", "she")
    path = tmp_path / "run.jsonl"
    path.write_text("".join(map(to_line, [RUN, *events])))
    assert list(read(path)) == [RUN, *events]
    assert json.loads(path.read_text().splitlines()[0]) == {"event": "run", **asdict(RUN)}, "the version comes first"
    assert [event.population for event in events if isinstance(event, End)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for population in populations:
        who = population.prompt_index, population.sample_index
        assert [*population.events, population.end()] == [event for event in events if event.population == who]


def test_weighings_are_those_of_the_population(model):
    _, populations = watched(model, "the book")
    for population in populations:
        start, *weighings = population.events
        assert isinstance(start, Start)
        assert (start.particles, start.steps, start.weighings, start.names) == (3, 6, 3, ("letters",))
        for event, step in zip(weighings, population.steps, strict=True):
            assert isinstance(event, Weighing)
            assert (event.k, event.ess, event.log_z, event.lam) == (step.k, float(step.ess), float(step.log_z), 2.0)
            assert (event.log_weights, event.ancestors) == (tuple(step.log_w.tolist()), tuple(step.ancestors.tolist()))
            assert sum(event.weights) == pytest.approx(1)
            assert event.rewards == pytest.approx(step.values[:, :, 0].mean(1).tolist())
            assert [value for (value,) in event.values] == step.values[:, :, 0].max(1).values.tolist()
            told = [value + "the book".count("e") for value in letters(event.guesses)]
            assert told == [value for (value,) in event.values], "the guess that is told is the best one"
            assert event.ledger["reward_requests"] == step.ledger.reward_requests / 2
        assert [text.continuation for text in population.texts] == list(weighings[-1].guesses)


@pytest.mark.parametrize("kernel", ["ancestral", "remdm-cap"])
@pytest.mark.parametrize("method", ["fk", "particle-gibbs", "base"])
def test_tokens_add_up_to_the_texts(model, method, kernel):
    """What is revealed, followed through every resampling, is in the end what was written."""
    more = {"sweeps": 2} if method == "particle-gibbs" else {}
    resampled = 0
    for population in watched(model, "the book", method=method, kernel=kernel, ess_threshold=2.0, **more)[1]:
        start, *weighings = population.events
        particles = Particles(start)
        for event in weighings:
            particles.add(event)
            resampled += event.ancestors != (0, 1, 2)
            assert all(board[:2] == list(start.board[:2]) for board in particles.boards), "the prompt stays"
            assert event.k < start.steps or not any(None in board for board in particles.boards)
        written = ["".join(piece or "" for piece in board).strip() for board in particles.boards]
        assert written == [str(text) for text in population.texts]
        sweeps = {"fk": [0, 0, 0], "particle-gibbs": [0, 0, 0, 1, 1, 1], "base": [0]}
        assert [event.sweep for event in weighings] == sweeps[method]
    assert resampled > 0 or method == "base"


def test_watching_changes_no_text(model):
    _, seen = watched(model, "the book", "she")
    plain = fktext.generate(model, letters, ["the book", "she"], **ASKED)
    for one, other in zip(seen, plain, strict=True):
        assert (one.texts, one.log_z) == (other.texts, other.log_z)
        assert torch.equal(one.log_w, other.log_w)
        assert other.events == ()


def test_a_log_that_is_cut_off_is_read_up_to_there(model, tmp_path):
    events, _ = watched(model, "the book")
    whole, path = "".join(map(to_line, [RUN, *events])), tmp_path / "run.jsonl"
    ends = [at + 1 for at, letter in enumerate(whole) if letter == "\n"]
    for number, end in enumerate(ends, 1):
        path.write_text(whole[: end + 20] if end < len(whole) else whole)
        assert list(read(path)) == [RUN, *events][:number]


def test_minus_infinity_and_no_estimate_survive(model):
    (population, *_) = watched(model, "the book")[1]
    start, weighing, end = population.events[0], population.events[-1], population.end()
    assert isinstance(weighing, Weighing)
    nothing = (-math.inf,) * 3
    for event in (
        replace(weighing, rewards=nothing, log_weights=nothing, log_z=-math.inf),
        replace(end, particles=tuple(replace(each, log_weight=-math.inf) for each in end.particles), log_z=-math.inf, chosen=None),
    ):
        assert list(parse([to_line(RUN), to_line(start), to_line(event)], "log"))[2] == event
    (back,) = list(parse([to_line(RUN), to_line(start), to_line(replace(end, log_z=math.nan))], "log"))[2:]
    assert isinstance(back, End)
    assert math.isnan(back.log_z)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no whole line"),
        ('{"event": "run"', "it has no whole line"),
        ('{"event": "start"}\n', "log:1 is no line of an event log.*expected event 'run' of version 1"),
        ('{"event": "run", "version": 2, "run": {}, "populations": 1}\n', "log:1 .*of version 1"),
        ("[1]\n", "log:1 is no line"),
        ("nothing\n", "log:1 is no line of an event log.*in nothing"),
        (to_line(RUN) + '{"event": "flood", "population": [0, 0]}\n', "log:2 .*there is no event 'flood'"),
        (to_line(RUN) + '{"event": "end", "population": [0, 0]}\n', "log:2 is no line of an event log"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        list(parse(text.splitlines(keepends=True), "log"))


def test_a_log_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the log .*No such file"):
        list(read(tmp_path / "nothing.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UsageError, match="cannot read the log"):
        list(read(tmp_path / "binary.jsonl"))


def test_the_guide_names_every_key():
    """The table of the log's format says what each record holds, and in which record."""
    guide = (Path(__file__).parents[2] / "docs" / "watch.md").read_text()
    table = guide[guide.index("| `event` |") :]
    for name, kind in (("run", Run), ("start", Start), ("weighing", Weighing), ("end", End)):
        part = re.search(rf"^\| `{name}` \|.*?(?=^\| `|\Z)", table, re.S | re.M)
        assert part is not None
        missing = [item.name for item in fields(kind) if f"`{item.name}`" not in part[0]]
        assert missing == [], name


def test_pieces_spell_texts():
    model = fktext.load("tiny-mdlm")
    text = "the lakes were cold, and unbelievably deep."
    pieces, ids = Pieces(model), model.spell(text)
    assert "".join(pieces[token] for token in ids).strip() == text == model.tokenizer.decode(ids)
    assert pieces[model.denoiser.mask_id] == ""


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("start", {"particles": 0}, "particles is 0"),
        ("start", {"particles": "3"}, "particles is '3'"),
        ("weighing", {"ancestors": [0, 1, 99]}, "does not fit a population of 3"),
        ("weighing", {"rewards": ["a", "b", "c"]}, "expected numbers"),
        ("weighing", {"rewards": [1.0]}, "does not fit a population of 3"),
        ("weighing", {"revealed": [[[999, " x"]], [], []]}, "does not fit texts of"),
        ("weighing", {"population": [5, 0]}, "has no beginning"),
        ("end", {"chosen": 55}, "does not fit a population of 3"),
    ],
)
def test_a_line_that_contradicts_the_beginning_is_named(model, kind, change, message):
    (population, *_) = watched(model, "the book")[1]
    lines = [to_line(RUN), *map(to_line, [*population.events, population.end()])]
    number = next(place for place, line in enumerate(lines) if json.loads(line)["event"] == kind)
    lines[number] = json.dumps(json.loads(lines[number]) | change) + "\n"
    with pytest.raises(UsageError, match=f"^log:{number + 1} is no line of an event log.*{message}"):
        list(parse(lines, "log"))
