"""How far a run is, where there is no terminal."""

from __future__ import annotations

import time

import pytest

from fktext_cli.progress import Bar


def test_a_long_run_says_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Bar("suite", lines=True) as bar, Bar("silent") as silent:
        for second in (10, 40, 50, 80):
            clock[0] = 100.0 + second
            for each in (bar, silent):
                each.show(second, 100)
    said = ["suite: 40%, 0:00:40 so far, about 0:01:00 left", "suite: 80%, 0:01:20 so far, about 0:00:20 left"]
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in said))
