"""Do what several commands need: make rewards, list things, print tables and checks."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

import fktext
from fktext.errors import UsageError
from fktext_cli.streams import visible

if TYPE_CHECKING:  # imported when a command runs, so that --help is fast
    from fktext.plugins.registry import Modality, Registry
    from fktext.rewards import Weighted
    from fktext.settings import Method, Run

Form = Annotated[Literal["text", "jsonl"], typer.Option("--format", "-f", help="jsonl has one object per line.")]
WholeForm = Annotated[
    Literal["text", "json", "jsonl"],
    typer.Option("--format", "-f", help="json is one document, jsonl has one object per line."),
]
Rows = Sequence[Mapping[str, Any]]
Json = Annotated[bool, typer.Option("--json", hidden=True, help="The same as --format json.")]  # its older spelling


def group(about: str) -> typer.Typer:
    """Make a command with commands of its own; called without one it prints its help and exits with code 2."""
    app = typer.Typer(add_completion=False, invoke_without_command=True, help=about)

    @app.callback()
    def root(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
            raise typer.Exit(2)

    return app


def listing(about: str, each: str, rows: Callable[[], Rows], show: Callable[[Rows], None]) -> typer.Typer:
    """Make a command that lists something, alone or as `list`, and may have more commands.

    Args:
        about: the first line of its help.
        each: the help of `list`.
        rows: makes what is listed, mappings with equal keys.
        show: prints it for a person, as `print_columns` does.
    """
    app = typer.Typer(add_completion=False, invoke_without_command=True, help=about)

    @app.callback()
    def root(context: typer.Context, form: WholeForm = "text") -> None:
        if context.invoked_subcommand is None:
            list_all(form)

    @app.command("list", help=each)
    def list_all(form: WholeForm = "text", as_json: Json = False) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # plugins may print
            found = rows()
        if as_json or form != "text":
            print(in_json(found, form), end="")
        else:
            show(found)

    return app


def in_json(found: Mapping[str, Any] | Rows, form: str) -> str:
    """Return what is listed or shown, whole lines: with "jsonl" one for each object, else one document."""
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in ([found] if isinstance(found, Mapping) else found))
    return json.dumps(found, indent=1) + "\n"


def load_registry() -> Registry:
    """Load the installed plugins; each one that is broken or in conflict, and each package of weights, gets a line on stderr."""
    from fktext import embedded
    from fktext.plugins import load_plugins

    with contextlib.redirect_stdout(sys.stderr):  # plugins may print
        registry = load_plugins()
    for problem in [*registry.problems(), *embedded.found()[1]]:
        print(f"warning: {visible(' '.join(problem.split()))}", file=sys.stderr)
    return registry


def method_for(specs: list[str] | None, method: Method) -> Method:
    """Return the method of a run: without a reward it is the model alone, and a line on stderr says how to steer.

    Raises:
        UsageError: a method other than the default one, and no reward.
    """
    if specs or method == "base":
        return method
    if method != "fk":
        raise UsageError(f"--method {method} needs a --reward; `fktext rewards` lists them, and --method base needs none")
    print("no --reward, so nothing steers: add one, such as --reward sentiment; `fktext rewards` lists them", file=sys.stderr)
    return "base"


def create_rewards(
    specs: list[str], device: str, offline: bool, batch_size: int | None, modality: Modality = "text"
) -> list[Weighted]:
    """Make the rewards that a command line names.

    Raises:
        UsageError: a reward is unknown, wrongly written, given twice, or of another modality.
    """
    from fktext.rewards import RewardContext

    context = RewardContext(device=device, offline=offline, batch_size=batch_size or RewardContext.batch_size)
    registry = load_registry() if specs else None
    terms = [registry.create(spec, context, modality) for spec in specs] if registry else []
    names = [term.name for term in terms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--reward {twice[0]!r} is given twice; write {twice[0]}=2 for twice the weight")
    return terms


def steering(terms: Sequence[Weighted], settings: Run) -> Iterator[str]:
    """Say of each reward, in a line, which way it steers."""
    verb = {"best-of-n": "choosing", "base": "not steered, only measured:"}.get(settings.method, "steering")
    for term in terms:
        goal = term.goal
        weight = "" if term.weight == 1 else f" with weight {term.weight:g}"
        against = " AGAINST its goal" if term.weight < 0 else ""
        yield visible(f"{verb} by {term.name}{weight}{against}: {goal or 'larger is better'}")


def provenance(model: dict[str, Any], terms: Sequence[Weighted], settings: Run, more: dict[str, Any]) -> dict[str, Any]:
    """Return what every row of a run has in common: enough to run it again."""
    from fktext.settings import described

    run = {
        "seed": settings.seed,
        "model": model,
        "reward_models": {term.name: term.provenance() for term in terms},
        "settings": {"fktext": fktext.__version__, **described(settings), **more},
    }
    return cast(dict[str, Any], json.loads(json.dumps(run)))


def print_columns(rows: Rows) -> None:
    """Print a table with the keys above it."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_wrapped(text: str, indent: str = "") -> None:
    """Print a text, on a terminal in lines of its width: all but the first are indented."""
    lines = [visible(text)]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = textwrap.wrap(lines[0], width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def report(checks: Iterable[Any], form: str, widths: tuple[int, int, int], device: str) -> None:
    """Print checks as they are made: what is expected, what is measured, and on stderr how many passed.

    Args:
        checks: dataclasses with `check`, `expected`, `measured` and `passed`.
        form: "text" for columns, or "jsonl".
        widths: of these columns.
        device: where they run.

    Raises:
        typer.Exit: with code 1, if one failed.
    """
    started, passed = time.perf_counter(), []
    for row in checks:
        passed.append(row.passed)
        cells = "".join(f"{cell:<{width}}" for cell, width in zip((row.check, row.expected, row.measured), widths, strict=True))
        print(json.dumps(asdict(row)) if form == "jsonl" else cells + ("ok" if row.passed else "FAILED"), flush=True)
    seconds = time.perf_counter() - started
    print(f"{sum(passed)} of {len(passed)} checks passed on {device} in {seconds:.1f} s", file=sys.stderr)
    if not all(passed):
        raise typer.Exit(1)
