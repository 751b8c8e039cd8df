"""The pictures of a lineage of images in a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser, find

from fktext_cli import app


def test_pictures_in_a_browser(tmp_path: Path) -> None:
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine: install it from the system's packages, or name one in FKTEXT_CHROMIUM")
    run = tmp_path / "images"
    arguments = ("--steps", 4, "-r", "brightness", "-n", 4, "--resample-every", 2, "-o", run)
    done = CliRunner(env={"HF_HUB_OFFLINE": "1"}).invoke(app, ["image", "generate", *map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    try:
        browser = Browser(program, tmp_path / "profile")
    except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        pytest.skip(f"{program} does not start here: {error}")
    try:
        browser.open(run / "trace.html")
        loaded = "Promise.all([...document.images].map((each) => each.decode().then(() => each.naturalWidth)))"
        assert browser.run(loaded) == [8] * 8, "the page's policy lets them load: in the player, the drawing and the table"
        style = "getComputedStyle(document.querySelector('{}')).imageRendering"
        assert browser.run(style.format("td.picture img")) == browser.run(style.format("svg image")) == "pixelated"
        browser.run("node = document.querySelector('[data-n=\"0,1\"]'); node.scrollIntoView({block: 'center'})")
        browser.run("box = node.getBoundingClientRect()")
        x, y = browser.run("[box.x + 4, box.y + 4]")  # a corner of the picture
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert browser.run("document.querySelector('.where').textContent").startswith("Step 2, particle 1, at the start")
        shown = browser.run("document.querySelector('.detail img').src")
        assert shown == json.loads((run / "trace.json").read_text())["populations"][0]["lineage"]["images"][0][1]
        assert browser.complaints == []
        assert {address.split(":")[0] for address in browser.requests} == {"file", "data"}
    finally:
        browser.close()
