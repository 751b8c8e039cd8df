"""The part of the page that plays a population: in a real browser, by mouse and by keyboard, light and dark, wide and narrow."""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser

import fktext
from fktext import player
from fktext.population import Population
from fktext.trace import End, Event, Particle, Run, Start, Weighing
from fktext_evals.reporting import page
from fktext_evals.reporting.trace import trace

RUN = Run(
    {
        "seed": 0,
        "model": {"name": "tiny", "digest": "0"},
        "settings": {
            "rewards": ["letters"], "method": "fk", "particles": 3, "samples": 1,
            "lam": 10.0, "potential": "max", "resampler": "ssp",
        },
    },
    1,
)  # fmt: skip
ATTACK = "</script><script>document.title = 'hacked'</script><img src=x onerror=\"document.title='hacked'\">"
# three particles, three weighings; particle 1 dies at the first, and slot 1 goes on as a copy of 0
START = Start((0, 0), "she", None, "text", ("letters", "length"), 3, 6, 3, ("she", None, None, None))
SHARED: dict[str, Any] = {"population": (0, 0), "sweep": 0, "log_z": -1.25, "lam": 10.0, "ledger": {"seconds": 0.1}}
WEIGHINGS = (
    Weighing(
        k=2, revealed=(((1, " sat"),), ((3, " red"),), ()), guesses=(" sat old", " is red", " ran"),
        rewards=(-1.0, -3.0, -2.0),
        values=((-0.5, -0.5), (-1.0, -2.0), (-1.0, -1.0)), log_weights=(0.0, -20.0, -1.0), ess=1.5,
        resampled=True, ancestors=(0, 0, 2),
        **SHARED,
    ),
    Weighing(
        k=4, revealed=(((2, " on"),), ((2, " in"),), ((1, " ran"),)), guesses=(" sat on it", " sat in it", " ran"),
        values=((-0.5, -0.5), (-0.2, -0.3), (-1.0, -1.0)), rewards=(-1.0, -0.5, -2.0), log_weights=(0.0, 0.5, -1.0), ess=2.6,
        resampled=False, ancestors=(0, 1, 2), **SHARED,
    ),
    Weighing(
        k=6, revealed=(((3, " it"),), ((3, " here"),), ((2, ""), (3, ""))), guesses=(" sat on it", " sat in here", " ran"),
        values=((-0.5, -0.5), (-0.1, -0.1), (-1.0, -1.0)), rewards=(-1.0, -0.2, -2.0), log_weights=(0.0, 0.8, -1.0), ess=2.5,
        resampled=False, ancestors=(0, 1, 2), **SHARED,
    ),
)  # fmt: skip
TEXTS = (" sat on it", " sat in here", " ran")
END = End(
    (0, 0),
    tuple(Particle("she" + text, text, -1.0, (-0.5, -0.5), -1.1, root) for text, root in zip(TEXTS, (0, 0, 2), strict=True)),
    1,
    -1.25,
    {"denoiser_rows": 12.0, "reward_calls": 9.0, "seconds": 0.5},
)
EVENTS: list[Event] = [START, *WEIGHINGS, END]


def written(folder: Path, events: list[Event] = EVENTS, rewards: list[str] | None = None) -> Path:
    path = folder / "run.html"
    run = RUN.run if rewards is None else {**RUN.run, "settings": {**RUN.run["settings"], "rewards": rewards}}
    page.write(path, page.trace_html(trace([replace(RUN, run=run), *events], events=True)))
    return path


def rows(browser: Browser) -> list[str]:
    """What the rows say, without their numbers: a mask is an underscore."""
    script = """[...document.querySelectorAll('.player .row:not(.ghost)')].map((row) =>
        [...row.querySelector('.said').childNodes].map((part) => (part.className === 'mask' ? '_' : part.textContent)).join(''))"""
    found: list[str] = browser.run(script)
    return found


def told(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps('.player ' + selector)}).innerText"))


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        browser.key(key)


def test_it_ends_with_the_texts_and_can_be_stepped_by_keys_alone(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path)
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path)
    assert rows(browser) == ["she sat on it", "she sat in here", "she ran"]
    assert told(browser, ".returned .slot") == "1"
    browser.run("document.querySelector('.player .row').focus()")
    press(browser, "Home")
    assert rows(browser) == ["she sat__", "she__ red", "she___"]
    assert "Step 2 of 6" in told(browser, ".now")
    assert "ESS 1.5 of 3" in told(browser, ".now")
    assert browser.run("[...document.querySelectorAll('.player .fate')].map((each) => each.textContent)") == ["\u00d72", "dies", ""]
    press(browser, "ArrowDown")
    assert "Particle 1 at step 2: reward \u22123 (letters \u22121, length \u22122)" in told(browser, ".about")
    assert "It was thought to become: is red" in told(browser, ".about")
    press(browser, "ArrowRight")
    assert rows(browser) == ["she sat on_", "she sat in_", "she ran__"]
    assert "Particle 1 at step 4, a copy of particle 0" in told(browser, ".about")
    press(browser, "ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowUp", "ArrowUp")
    assert browser.run("document.activeElement.querySelector('.slot').textContent") == "0"
    press(browser, "Enter")
    press(browser, "ArrowRight")
    lit = "[...document.querySelectorAll('.player .row:not(.ghost)')].map((row) => row.classList.contains('lit'))"
    assert browser.run(lit) == [True, True, False], "a particle and its copy"
    assert browser.run("document.querySelectorAll('.tree .on').length") == 0, "the tree lights the line from its start"
    assert browser.run("document.querySelectorAll('.tree .at').length") == 1
    press(browser, "Escape")
    assert browser.run(lit) == [False] * 3
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]


def test_it_plays_pauses_and_hurries(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path))
    browser.run("document.querySelector('.player .row').focus()")
    browser.run("speed = document.querySelector('.player select'); speed.value = '4'; speed.dispatchEvent(new Event('change'))")
    press(browser, " ")
    assert "Step 2 of 6" in told(browser, ".now"), "from the beginning, where it was at the end"
    assert browser.run("document.querySelector('.player .play').getAttribute('aria-label')") == "Pause"
    press(browser, " ")
    browser.run("new Promise((done) => setTimeout(done, 600))")
    assert "Step 2 of 6" in told(browser, ".now"), "it waits"
    press(browser, " ")
    browser.run("new Promise((done) => setTimeout(done, 1500))")
    assert "Step 6 of 6" in told(browser, ".now")
    assert browser.run("document.querySelector('.player .play').getAttribute('aria-label')") == "Play"
    browser.run("bar = document.querySelector('.player input'); bar.value = 1; bar.dispatchEvent(new Event('input'))")
    assert "Step 4 of 6" in told(browser, ".now")
    assert browser.run("bar.getAttribute('aria-valuetext')") == "step 4 of 6"


@pytest.mark.parametrize("calm", [False, True])
def test_copies_slide_and_the_dead_fade_unless_motion_is_unwanted(browser: Browser, tmp_path: Path, calm: bool) -> None:
    browser.open(written(tmp_path), calm=calm)
    browser.run("document.querySelector('.player .row').focus()")
    press(browser, "Home")
    browser.run("[back, on] = document.querySelectorAll('.player .controls button:not(.play)'); on.click()")
    moving = browser.run("document.getAnimations().filter((each) => !(each instanceof CSSTransition)).length")
    assert (moving, browser.run("document.querySelectorAll('.ghost').length")) == ((0, 0) if calm else (2, 1))
    assert rows(browser) == ["she sat on_", "she sat in_", "she ran__"]
    browser.run("new Promise((done) => setTimeout(done, 700))")
    assert browser.run("document.querySelectorAll('.ghost').length") == 0
    browser.run("back.click()")
    assert rows(browser) == ["she sat__", "she__ red", "she___"]


def test_events_may_come_one_by_one(browser: Browser, tmp_path: Path) -> None:
    """As they do while a run goes on: the last weighing is shown, unless a person looks at another."""
    path = tmp_path / "live.html"
    path.write_text(player.page([]))
    script = f"""figure = document.createElement('figure'); figure.className = 'player';
        document.querySelector('figure').replaceWith(figure); live = fktextPlayer(figure);
        events = {json.dumps([player.plain(event) for event in EVENTS])}; events.slice(0, 2).forEach(live.add)"""
    browser.open(path)
    browser.complaints.clear()
    browser.run(script)
    assert rows(browser) == ["she sat__", "she__ red", "she___"]
    browser.run("live.add(events[2])")
    assert rows(browser) == ["she sat on_", "she sat in_", "she ran__"]
    browser.run("live.show(0); live.add(events[3]); live.add(events[4])")
    assert "Step 2 of 6" in told(browser, ".now")
    browser.run("live.show(2)")
    assert told(browser, ".returned .said") == "she sat in here"
    browser.run("events.slice(0, 2).forEach(live.add)")
    assert rows(browser) == ["she sat__", "she__ red", "she___"], "another population takes the place of the first"
    assert browser.run("document.querySelectorAll('.player .bars i').length") == 1
    assert browser.complaints == []


def test_what_an_attacker_writes_is_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    bad = replace(START, prompt=ATTACK, board=(ATTACK, None, None, None))
    worse = [replace(event, guesses=(ATTACK,) * 3, revealed=(((1, ATTACK),),) * 3) for event in WEIGHINGS]
    browser.complaints.clear()
    browser.open(written(tmp_path, [bad, *worse, END]))
    assert ATTACK in rows(browser)[0]
    path = tmp_path / "alone.html"
    path.write_text(player.page([bad, *worse, END], ATTACK))
    browser.open(path)
    assert ATTACK in rows(browser)[0]
    assert browser.run("document.title") == ATTACK
    assert browser.complaints == []


def test_texts_wait_behind_a_warning(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path, rewards=["toxicity"]))
    assert browser.run("document.querySelector('.player').checkVisibility()") is False
    browser.run("document.querySelector('details.gate').open = true")
    assert browser.run("document.querySelector('.player').checkVisibility()") is True


def axe() -> str:
    """The source of axe-core; FKTEXT_AXE names another."""
    if named := os.environ.get("FKTEXT_AXE"):
        return Path(named).read_text()
    pytest.importorskip("axe_core_python")
    return (resources.files("axe_core_python") / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    """At the end, at a resampling with a lit lineage, and no page is wider than its window."""
    source = axe()
    browser.open(written(tmp_path), width, 800, scheme)
    browser.run(source + ";1")
    for keys in ((), ("Home", "Enter"), ("ArrowRight",)):
        browser.run("document.querySelector('.player .row').focus()")
        press(browser, *keys)
        browser.run("new Promise((done) => setTimeout(done, 700))")
        found = browser.run(
            "axe.run().then((all) => all.violations.map((each) => [each.id, each.nodes[0].html, each.nodes[0].failureSummary]))"
        )
        assert found == []
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_it_stays_small(tmp_path: Path) -> None:
    """16 particles, 20 weighings, 64 tokens, with guesses of the whole text at each: less than 400 kB."""
    dice, size, length = random.Random(0), 16, 64
    words = [" " + "".join(dice.choices("abcdefghij", k=dice.randint(2, 7))) for _ in range(500)]
    text = lambda: "".join(dice.choices(words, k=length))  # noqa: E731
    start = replace(START, particles=size, board=(None,) * length, names=("sentiment",), steps=128, weighings=20)
    weighings = [
        Weighing(
            k=6 * number,
            revealed=tuple(tuple((dice.randrange(length), dice.choice(words)) for _ in range(4)) for _ in range(size)),
            guesses=tuple(text() for _ in range(size)),
            values=tuple((dice.random(),) for _ in range(size)),
            rewards=tuple(dice.random() for _ in range(size)),
            log_weights=tuple(dice.random() for _ in range(size)),
            ess=dice.uniform(1, size),
            resampled=True,
            ancestors=tuple(sorted(dice.choices(range(size), k=size))),
            **SHARED,
        )
        for number in range(1, 21)
    ]
    end = replace(END, particles=tuple(Particle(text(), text(), dice.random(), (dice.random(),), -2.0, 0) for _ in range(size)))
    assert written(tmp_path, [start, *weighings, end]).stat().st_size < 400_000


def test_a_population_shows_itself(browser: Browser, tmp_path: Path, tiny: Path) -> None:
    """In a frame, as a notebook has it: with its tokens where it was watched, else with what it knows."""

    def letters(texts: Any) -> list[float]:
        return [float(str(text).count("e")) for text in texts]

    asked: dict[str, Any] = {"particles": 3, "length": 8, "steps": 6, "resample_every": 2}
    found = [
        item
        for watch in (True, False)
        for item in fktext.stream(str(tiny), letters, "the book", watch=watch, **asked)
        if isinstance(item, Population)
    ]
    for population in found:
        frame = population.show()
        notebook = tmp_path / "notebook.html"
        notebook.write_text(f"<!DOCTYPE html><title>notebook</title>{frame._repr_html_()}")
        alone = tmp_path / "alone.html"
        alone.write_text(frame.html)
        browser.complaints.clear()
        browser.open(notebook)
        assert browser.run("document.querySelector('iframe').getBoundingClientRect().height") > 300
        browser.open(alone)
        said = [text.strip() for text in rows(browser)]
        assert all(str(text).endswith(each) for text, each in zip(population.texts, said, strict=True))
        assert browser.run("document.querySelectorAll('.bars i').length") == 3
        assert browser.complaints == []


def test_images_are_played_as_thumbnails(browser: Browser, tmp_path: Path) -> None:
    dot = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    start = replace(START, modality="image", board=())
    weighings = [replace(event, guesses=(dot,) * 3, revealed=()) for event in WEIGHINGS]
    path = tmp_path / "images.html"
    path.write_text(player.page([start, *weighings, END]))
    browser.complaints.clear()
    browser.open(path, 360, 700)
    assert browser.run("[...document.querySelectorAll('.player .said img')].map((each) => each.naturalWidth)") == [1, 1, 1]
    widths = browser.run("[...document.querySelectorAll('.player .row')].map((row) => row.getBoundingClientRect().width)")
    assert max(widths) - min(widths) < 1
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints == []


def test_where_nobody_knows_the_tokens_guesses_are_played(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "guesses.html"
    path.write_text(player.page([START, *(replace(event, revealed=()) for event in WEIGHINGS), END]))
    browser.open(path)
    assert rows(browser) == list(WEIGHINGS[-1].guesses)
