"""`fktext eval`: compare steering methods, with intervals."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fktext.errors import UsageError
from fktext_cli.listing import load_registry, resolve_device

app = typer.Typer(invoke_without_command=True)

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A name from `fktext eval ls`, or a .toml file.")]


@app.callback()
def root(context: typer.Context) -> None:
    """Compare steering methods on suites of prompts, judged, with intervals."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def ls() -> None:
    """List the suites."""
    from fktext_evals import suite

    found = [suite.load(name) for name in suite.names()]
    width = max(len(item.name) for item in found)
    for item in found:
        print(f"{item.name:{width}}  {item.texts:6} texts  {item.description}")


@app.command()
def show(name: SuiteName) -> None:
    """Print a suite's file: a start for one of your own."""
    from fktext_evals import suite

    print(suite.source(name), end="")


@app.command()
def validate(names: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Names or .toml files.")]) -> None:
    """Check suites without running them: keys, values, rewards and judges."""
    from fktext_evals import suite

    registry = load_registry()
    for name in names:
        found = suite.load(name)
        with contextlib.redirect_stdout(sys.stderr):
            suite.check(found, registry)
        methods = ", ".join(f"{method.name} N={method.settings.particles}" for method in found.methods)
        print(f"{name}: ok, {len(found.prompts)} prompts, {methods}; {len(found.judges)} judges, {found.texts} texts")


@app.command()
def run(
    name: SuiteName,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run's folder; an unfinished run goes on.", show_default="runs/SUITE"),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="In place of the suite's.", show_default="the suite's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the model's network.")] = "float32",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Particles computed at once; changes no text.", show_default="by device")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do part I of N, from 1.", show_default="RANK and WORLD_SIZE, else all")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Touch no network.")] = False,
) -> None:
    """Run a suite and print its report. The same command goes on with a run that was interrupted."""
    import fktext_evals

    part = None
    if shard is not None:
        if not (found := re.fullmatch(r"(\d+)/(\d+)", shard)):
            raise UsageError(f"--shard is {shard!r}; expected I/N, such as 1/4")
        part = int(found[1]), int(found[2])
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that rewards use; they read it when they are imported
    with contextlib.redirect_stdout(sys.stderr):  # what models, rewards and plugins may print is no result
        suite = fktext_evals.load(name)
        folder = out or Path("runs") / suite.name
        results = fktext_evals.run(
            suite,
            out=folder,
            model=model,
            device=resolve_device(device),
            dtype=dtype,
            batch_size=batch_size,
            offline=offline,
            shard=part,
            registry=load_registry(),
        )
    print(f"the rows are in {folder}", file=sys.stderr)
    print(fktext_evals.markdown(results), end="")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, finished or not.")],
    form: Annotated[Literal["md", "csv"], typer.Option("--format", "-f", help="Markdown, or every metric as CSV.")] = "md",
    texts: Annotated[int, typer.Option(min=0, help="Texts to show of each prompt and method; they may be offensive.")] = 0,
) -> None:
    """Print tables of runs."""
    import fktext_evals

    found = [fktext_evals.read(folder) for folder in runs]
    if form == "csv":
        if texts:
            raise UsageError("--texts is for --format md; the texts are in the rows-*.jsonl files of the run")
        print(fktext_evals.as_csv(found), end="")
    else:
        print("\n".join(fktext_evals.markdown(results, texts) for results in found), end="")
