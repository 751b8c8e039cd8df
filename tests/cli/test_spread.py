"""`--spread`, `--compile` and `--batch-size auto` through the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

RUN = ("generate", "the", "he", "--samples", 2, "-n", 5, "-r", "letters", "--ess-threshold", 0.9, "--lambda", 3, "-f", "jsonl")


def torchrun(plugin_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line as two processes that torchrun starts."""
    path = os.pathsep.join([str(plugin_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "FKTEXT_DISABLE_PLUGINS": "fk-broken", "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = "1"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fktext_cli"]
    command = [*start, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_write_what_one_writes(call: Callable[..., Result], tiny: Path, plugin_path: Path, tmp_path: Path) -> None:
    alone = call(*RUN, "--model", tiny, "--return", "all")
    assert alone.exit_code == 0, alone.stderr
    done = torchrun(plugin_path, *RUN, "--model", tiny, "--return", "all", "--spread")
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone.stdout  # once, not twice
    assert done.stderr.count("4 populations of 5 particles") == 1
    # and they go on with half of it, which only the first of them reads
    file = tmp_path / "out.jsonl"
    lines = alone.stdout.splitlines(keepends=True)
    file.write_text("".join(lines[:10]))
    more = torchrun(plugin_path, *RUN, "--model", tiny, "--return", "all", "--spread", "--output", file, "--resume")
    assert more.returncode == 0, more.stderr
    assert "resuming: 2 populations" in more.stderr
    assert file.read_text() == alone.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--spread",), "RANK is not in the environment: start it with `torchrun"),
        (("--device-map", "auto", "--compile"), "--device-map does not go with --compile"),
        (("--batch-size", "0"), "neither auto nor a number from 1"),
        (("--batch-size", "all"), "neither auto nor a number from 1"),
    ],
)
def test_what_cannot_be(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tiny: Path, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    result = call(*RUN, "--model", tiny, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_auto_is_the_default_batch_size(call: Callable[..., Result], tiny: Path) -> None:
    plain, auto = call(*RUN, "--model", tiny), call(*RUN, "--model", tiny, "--batch-size", "auto")
    assert auto.exit_code == 0, auto.stderr
    assert auto.stdout == plain.stdout


def test_compile_reaches_the_network(call: Callable[..., Result], tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = call(*RUN, "--model", tiny)
    compiled = []

    def pretend(function: Callable[..., object], **_: object) -> Callable[..., object]:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", pretend)
    result = call(*RUN, "--model", tiny, "--compile")
    assert result.exit_code == 0, result.stderr
    assert len(compiled) == 1
    assert result.stdout == plain.stdout
