"""`fktext eval`: compare steering methods, with intervals."""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fktext.errors import UsageError, one_line
from fktext_cli.common import group, load_registry
from fktext_cli.options import BatchSize, Compiled, Dtype, Where, run_option, unfolded
from fktext_cli.output import the_dead
from fktext_cli.progress import Bar
from fktext_cli.streams import visible

if TYPE_CHECKING:
    from fktext_evals import Results

app = group("Compare steering methods on suites of prompts, judged, with intervals.")

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A name from `fktext eval ls`, or a .toml file.")]


@app.command()
def ls() -> None:
    """List the suites, plugins' included."""
    from fktext_evals import catalogue

    registry, embedded = load_registry(), catalogue.names()
    taken = Counter([*embedded, *(entry.name for entry in registry.suites)])
    others = [entry.name if taken[entry.name] == 1 else f"{entry.distribution}:{entry.name}" for entry in registry.suites]
    found = []
    for name in [*embedded, *others]:
        try:
            found.append(catalogue.summary(name, registry))
        except UsageError as error:  # a plugin's file; it hides no other
            found.append({"name": name, "texts": None, "description": f"cannot be read: {one_line(error, None)}"})
    width = max(len(item["name"]) for item in found)
    for item in found:
        texts = "?" if item["texts"] is None else item["texts"]
        print(visible(f"{item['name']:{width}}  {texts:>6} texts  {item['description']}"))


@app.command()
def show(name: SuiteName) -> None:
    """Print the file of a suite, to start your own from."""
    from fktext_evals import catalogue

    print(catalogue.source(name), end="")


@app.command()
def validate(names: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Names or .toml files.")]) -> None:
    """Check suites without running them: keys, values, rewards and judges."""
    from fktext_evals import catalogue

    registry = load_registry()
    for name in names:
        found = catalogue.load(name, registry)
        with contextlib.redirect_stdout(sys.stderr):
            catalogue.check(found, registry)
        methods = ", ".join(f"{method.name} N={method.settings.particles}" for method in found.methods)
        print(f"{name}: ok, {len(found.prompts)} prompts, {methods}; {len(found.judges)} judges, {found.texts} texts")


@app.command()
@unfolded()
def run(
    name: SuiteName,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder of the run; an unfinished run in it is resumed.", show_default="runs/SUITE"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model in place of the suite's.", show_default="the suite's")
    ] = None,
    *,
    where: Where,
    dtype: Dtype = "float32",
    compiled: Compiled = False,
    batch_size: BatchSize = None,
    shard: Annotated[
        str | None, run_option(metavar="I/N", help="Do part I of N, from 1; torchrun's processes divide it.", show_default="all")
    ] = None,
) -> None:
    """Run a suite and print its report. The same command resumes an interrupted run.

    Of several shards, the one that finds all texts there prints it.
    """
    import fktext_evals
    from fktext_evals import runner

    part = None
    if shard is not None:
        if not (found := re.fullmatch(r"(\d+)/(\d+)", shard)):
            raise UsageError(f"--shard is {shard!r}; expected I/N, such as 1/4")
        part = int(found[1]), int(found[2])
    device = where.ready()
    registry = load_registry()
    with contextlib.redirect_stdout(sys.stderr):  # what models, rewards and plugins may print is no result
        suite = fktext_evals.load(name, registry)
        folder = out or Path("runs") / suite.name
        try:
            steps = runner.run_steps(
                suite,
                model,
                out=folder,
                device=device,
                dtype=dtype,
                compiled=compiled,
                batch_size=batch_size,
                offline=where.offline,
                shard=part,
                registry=registry,
            )
            results = _follow(steps, suite.name)
        except KeyboardInterrupt:
            print(f"\ninterrupted; {folder} keeps what is done, and the same command resumes it", file=sys.stderr)
            raise
    print(f"the rows are in {folder}", file=sys.stderr)
    if results.missing:
        print(f"{results.missing} of {suite.texts} texts are missing: other shards make them", file=sys.stderr)
    else:
        print(fktext_evals.markdown(results), end="")
    if results.died:
        raise the_dead(results.died, len(results.rows), suite.modality)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, finished or not.")],
    form: Annotated[
        Literal["md", "csv"] | None,
        typer.Option(
            "--format", "-f", help="Print Markdown, or every metric as CSV.", show_default="md, or none with --html, --plots"
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page of its own, with figures and lineages: a .html file, or a folder for report.html."),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the figures here, as SVG and PNG; needs fktext\\[report].")] = None,
    texts: Annotated[
        int | None,
        typer.Option(
            min=0, help="Texts to show of each prompt and method; they may be offensive.", show_default="0, on the page 2"
        ),
    ] = None,
    lineages: Annotated[int, typer.Option(min=0, help="Prompts to draw lineages of on the page.")] = 2,
) -> None:
    """Print tables of runs, or write a page with tables, figures, lineages and texts."""
    import fktext_evals

    if form == "csv" and texts and html is None:
        raise UsageError("--texts is for --format md and --html; the texts are in the rows-*.jsonl files of the run")
    found = [_read(folder) for folder in runs]
    if html is not None:
        from fktext_evals import page

        file = html if html.suffix == ".html" and not html.is_dir() else html / "report.html"
        page.write(file, page.html(found, 2 if texts is None else texts, lineages))
        print(f"wrote {file}", file=sys.stderr)
    if plots is not None:
        from fktext_evals import plots as drawing

        for file in drawing.write(found, plots):
            print(f"wrote {file}", file=sys.stderr)
    if form == "csv":
        print(fktext_evals.as_csv(found), end="")
    elif form == "md" or (html is None and plots is None):
        print("\n".join(fktext_evals.markdown(results, texts or 0) for results in found), end="")


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    other: Annotated[Path | None, typer.Argument(metavar="OTHER", help="The folder of another.", show_default="RUN")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME[:N]", help="A method of RUN.", show_default="all that both have")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="NAME[:N]", help="A method of OTHER.", show_default="the same")] = None,
    form: Annotated[Literal["md", "csv"], typer.Option("--format", "-f", help="Markdown or CSV.")] = "md",
) -> None:
    """Print RUN minus OTHER: paired differences over the same prompts, seeds and samples, with intervals.

    Example: fktext eval compare runs/a runs/b --method fk:8 --against best-of-n:16
    """
    from fktext_evals import compare as comparison

    ours = _read(run)
    theirs = ours if other is None else _read(other)
    found = comparison.compare(ours, theirs, method, against)
    print((comparison.as_csv if form == "csv" else comparison.markdown)(ours, theirs, found), end="")


def _read(folder: Path) -> Results:
    """Read a run; notes about its files go to stderr."""
    import fktext_evals

    found = fktext_evals.read(folder)
    _tell(found.notes)
    return found


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _follow(steps: Iterable[Any], name: str) -> Results:
    """Return the results of a run, and show on stderr how far it is."""
    from fktext_evals.results import Results
    from fktext_evals.runner import Advanced, Note

    moved = False
    with Bar(name, lines=True) as bar:
        for step in steps:
            if isinstance(step, Advanced):
                moved = True
                bar.show(step.done, step.total)
            elif isinstance(step, Note):
                with bar.away():
                    _tell([step.text])
            elif isinstance(step, Results):
                break
        else:
            raise AssertionError("a run ends with its results")
    _tell([f"{name}: done in {bar.spent()}"] * moved + [*step.notes])
    return step
