"""What there is: `fktext rewards`, `fktext models`, `fktext plugins`; and whether it works here: `fktext selftest`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fktext.errors import FktextError, UsageError

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help is fast
    from fktext.plugins import Registry, RewardEntry

Form = Annotated[Literal["text", "jsonl"], typer.Option("--format", "-f", help="jsonl has one object per line.")]


def load_registry() -> Registry:
    """The installed rewards; a line on stderr for each plugin that is broken or in conflict."""
    from fktext.plugins import load_plugins

    with contextlib.redirect_stdout(sys.stderr):  # plugins may print
        registry = load_plugins()
    for problem in registry.problems():
        print(f"warning: {' '.join(problem.split())}", file=sys.stderr)
    return registry


def rewards(form: Form = "text") -> None:
    """List the rewards and their options."""
    for name, entry in load_registry().rewards.items():
        with contextlib.redirect_stdout(sys.stderr):
            row = _describe(name, entry)
        if form == "jsonl":
            print(json.dumps(row))
            continue
        print(f"{name}  ({entry.distribution})\n    {entry.summary}")
        for option in row["options"]:
            default = "required" if option["required"] else f"default {option['default'] or 'not set'}"
            print(f"    {option['name']}=<{option['type']}>  {option['help']}{' ' * bool(option['help'])}[{default}]")
        if row["error"]:
            print(f"    cannot be used: {row['error']}")


def _describe(name: str, entry: RewardEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "distribution": entry.distribution, "summary": entry.summary, "options": [], "error": ""}
    try:
        options = entry.options().values()
    except FktextError as error:
        return {**row, "error": str(error)}
    return {
        **row,
        "options": [
            {
                "name": option.name,
                "type": option.expects,
                "required": option.required,
                "default": None if option.required or option.default is None else str(option.default),
                "help": option.help,
            }
            for option in options
        ],
    }


def plugins(form: Form = "text") -> None:
    """List the installed plugins, the broken ones too."""
    from fktext.plugins import load_plugins

    with contextlib.redirect_stdout(sys.stderr):
        registry = load_plugins()
    _table(
        [
            {
                "plugin": f"{plugin.distribution}:{plugin.name}",
                "version": plugin.version,
                "status": plugin.status,
                "rewards": list(plugin.rewards),
                "error": plugin.error,
            }
            for plugin in registry.plugins
        ],
        form,
    )


def _table(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Rows with equal keys as aligned columns, or as JSON lines."""
    if form == "jsonl":
        for row in rows:
            print(json.dumps(row))
        return
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def models(form: Form = "text") -> None:
    """List the models by name: embedded ones, and aliases of public ones."""
    from fktext.models import catalogue

    _table([entry._asdict() for entry in catalogue()], form)


def selftest(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    populations: Annotated[int, typer.Option(min=1000, help="Independent populations per check; more sees smaller errors.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    form: Form = "text",
) -> None:
    """Check on this machine that the sampler aims at the exact law.

    Many small populations on a model whose texts can all be listed are compared with the law itself, for every potential and
    resampler; |z| is the largest difference in standard errors. The last checks are wrong on purpose and must be caught.
    Exit code 1 if a check fails.
    """
    from fktext.testing.selftest import run

    device = resolve_device(device)
    started = time.perf_counter()
    results = []
    for row in run(device=device, seed=seed, populations=populations):
        results.append(row.passed)
        if form == "jsonl":
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(f"{row.check:<42}{row.expected:<32}{row.measured:<18}{'ok' if row.passed else 'FAILED'}", flush=True)
    seconds = time.perf_counter() - started
    print(f"{sum(results)} of {len(results)} checks passed on {device} in {seconds:.1f} s", file=sys.stderr)
    if not all(results):
        raise typer.Exit(1)


def resolve_device(name: str) -> str:
    """A device that can be used here; "auto" is cuda where there is one, else cpu.

    Raises:
        UsageError: torch does not know it, or cannot use it here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"--device {name!r} cannot be used here: {reason}") from error
    return name
