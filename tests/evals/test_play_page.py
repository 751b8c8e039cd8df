"""The page of `fktext play` in a real browser: run, step, reach in, by mouse and by keyboard."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browser import Browser

import tiny

pytest.importorskip("uvicorn")

STATE = "document.getElementById('state').textContent"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = tiny.mdlm(tmp_path_factory.mktemp("play") / "model")
    arguments = [sys.executable, "-m", "fktext_cli", "play", "--model", str(model), "--threads", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    process.wait(30)


def until(browser: Browser, script: str, wanted: Any = True) -> None:
    deadline = time.monotonic() + 60
    while browser.run(script) != wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"{script} stays {browser.run(script)!r}; the page says {browser.run(STATE)!r}")
        time.sleep(0.1)


def begin(browser: Browser, address: str, width: int, scheme: str) -> None:
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(address, width, 900, scheme, calm=True)
    browser.run(
        "document.querySelector('.spec').value = 'keywords:words=red'; document.querySelector('[name=prompt]').value = 'the city'"
    )
    browser.run("document.querySelector('[name=particles]').value = 4; document.querySelector('[name=length]').value = 10")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_run_is_stepped_through_and_reached_into(width: int, scheme: str, browser: Browser, address: str) -> None:
    begin(browser, address, width, scheme)
    assert not browser.run("document.getElementById('columns').checkVisibility()")
    browser.run("document.getElementById('slow').click()")
    until(browser, f"{STATE}.startsWith('Paused')")
    assert browser.run("['base', 'best'].map((name) => document.querySelectorAll(`#${name} .row`).length)") == [1, 4]
    tops = "new Set([...document.querySelectorAll('#columns section')].map((each) => each.getBoundingClientRect().top)).size"
    assert browser.run(tops) == (1 if width > 1000 else 3)  # side by side, or one below the other
    roomy = "[...document.querySelectorAll('.row .said')].every((each) => each.clientWidth > each.closest('.row').clientWidth / 3)"
    assert browser.run(roomy)  # the text has most of a row, not what numbers leave of it
    assert browser.run("document.getElementById('hand').hidden")
    alive = "[...document.querySelectorAll('#steered .row')].findIndex((row) => !row.classList.contains('dies'))"
    browser.run(f"document.querySelectorAll('#steered .row')[{alive}].click()")
    until(browser, "document.getElementById('hand').hidden", False)
    assert browser.run("document.getElementById('left').hidden")
    browser.run("document.querySelector('[data-act=pin]').click()")
    until(browser, "document.getElementById('whom').textContent.endsWith(', pinned')")
    browser.run("document.querySelector('[data-act=fork]').click()")
    until(browser, "document.getElementById('left').hidden", False)
    browser.run("document.querySelector('[data-act=step]').click()")
    until(browser, "document.querySelectorAll('#steered .bars > *').length >= 2")
    browser.run("document.querySelector('[data-act=go]').click()")
    until(browser, STATE, "Done.")
    assert browser.run("document.querySelectorAll('#steered .row.returned').length") == 1
    assert browser.run("document.documentElement.scrollWidth") <= width
    if (found := find_spec("axe_core_python")) and found.origin:
        browser.run((Path(found.origin).parent / "axe.min.js").read_text() + ";1")
        assert browser.run("axe.run().then((all) => all.violations.map((each) => [each.id, each.nodes[0].html]))") == []
    assert browser.complaints == []
    assert all(request.startswith(address) for request in browser.requests)


def test_the_keyboard_is_enough_and_a_wrong_reward_is_a_line(browser: Browser, address: str) -> None:
    begin(browser, address, 1200, "light")
    browser.run("document.querySelector('.spec').value = 'function:target=os:system'; document.getElementById('go').focus()")
    browser.key("Enter")
    browser.run("document.getElementById('go').click()")
    until(browser, "document.getElementById('state').classList.contains('error')")
    assert "is not offered here" in browser.run(STATE)
    assert "\n" not in browser.run(STATE)
    browser.run("document.querySelector('.spec').value = 'keywords:words=red'")
    browser.run("document.querySelector('[name=prompt]').value = '<img src=x onerror=document.title=1>'")
    browser.run("document.getElementById('go').click()")
    until(
        browser,
        f"{STATE} !== 'Asking …' && {STATE} !== 'Running base and best-of-n …' && {STATE} !== 'Running the steered population …'",
    )
    assert browser.run("document.title") != "1"
    assert browser.run("document.querySelectorAll('#steered img, #best img').length") == 0
