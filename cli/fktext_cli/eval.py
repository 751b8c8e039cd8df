"""`fktext eval`: compare steering methods, with intervals."""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from fktext.errors import UsageError, one_line
from fktext_cli import completion, onscreen
from fktext_cli.common import group, load_registry, print_columns
from fktext_cli.options import BatchSize, Compiled, Dtype, Model, RewardSpecs, Where, run_option, unfolded
from fktext_cli.output import the_dead
from fktext_cli.progress import Bar
from fktext_cli.streams import visible

if TYPE_CHECKING:
    from fktext.plugins.registry import Registry
    from fktext_evals import Results, Suite
    from fktext_evals.reporting.blocks import Report

ReportFormat = Literal["md", "csv", "latex"]

app = group("Compare steering methods on suites of prompts, judged, with intervals.")

SuiteName = Annotated[
    str,
    typer.Argument(metavar="SUITE", help="A name from `fktext eval ls`, or a .toml file.", autocompletion=completion.suites),
]


@app.command()
def ls() -> None:
    """List the suites; those of plugins are marked."""
    from fktext_evals.suites import catalogue

    registry, embedded = load_registry(), catalogue.names()
    taken = Counter([*embedded, *(entry.name for entry in registry.suites)])
    brought = {
        (entry.name if taken[entry.name] == 1 else f"{entry.distribution}:{entry.name}"): entry.distribution
        for entry in registry.suites
    }
    found = []
    for name in [*embedded, *brought]:
        try:
            found.append(catalogue.summary(name, registry))
        except UsageError as error:  # a plugin's file; it hides no other
            found.append({"name": name, "texts": None, "description": f"cannot be read: {one_line(error, None)}"})
    width = max(len(item["name"]) for item in found)
    for item in found:
        texts = "?" if item["texts"] is None else item["texts"]
        whose = f"  (of plugin {brought[item['name']]})" if item["name"] in brought else ""
        print(visible(f"{item['name']:{width}}  {texts:>6} texts  {item['description']}{whose}"))


@app.command()
def show(name: SuiteName) -> None:
    """Print the file of a suite, to start your own from."""
    from fktext_evals.suites import catalogue

    print(catalogue.source(name), end="")


@app.command()
def validate(
    names: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Names or .toml files.", autocompletion=completion.suites)],
) -> None:
    """Check suites without running them: keys, values, rewards and judges."""
    from fktext_evals.suites import catalogue
    from fktext_evals.suites.suite import counted

    registry = load_registry()
    for name in names:
        found = catalogue.load(name, registry)
        with contextlib.redirect_stdout(sys.stderr):
            catalogue.check(found, registry)
        methods = ", ".join(f"{method.name} N={method.settings.particles}" for method in found.methods)
        prompts, judges = counted(len(found.prompts), "prompt"), counted(len(found.judges), "judge")
        print(f"{name}: ok, {prompts}, {methods}; {judges}, {counted(found.texts, found.modality)}")


@dataclass(frozen=True)
class Change:
    """Options that change a suite without editing its file."""

    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the suite, such as lam=2 or samples=1; repeatable.",
            show_default=False,
        ),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many prompts only.", show_default="all")] = None

    def values(self) -> dict[str, Any]:
        """Return the values by key."""
        from fktext_evals.suites.changes import read_changes

        return read_changes(self.settings or ())


@dataclass(frozen=True)
class Loading:
    """Options of how a suite is run."""

    dtype: Dtype = "float32"
    compiled: Compiled = False
    batch_size: BatchSize = None
    shard: Annotated[
        str | None, run_option(metavar="I/N", help="Do part I of N, from 1; torchrun's processes divide it.", show_default="all")
    ] = None

    executor: Annotated[
        str, run_option(metavar="local|ray|slurm", help="Where workers run: here, on Ray or Slurm; or a plugin's.")
    ] = "local"
    workers: Annotated[
        int, run_option(min=1, help="How many workers; they change no text. Local ones divide the threads, each has a GPU.")
    ] = 1
    retries: Annotated[
        int | None,
        run_option(min=0, help="Try a batch that failed again so often.", show_default="2, with one process stop at the first"),
    ] = None
    judge_device: Annotated[
        str | None, run_option(help="Device of the rewards and judges, such as cuda:1.", show_default="the model's")
    ] = None
    dry_run: Annotated[
        bool, run_option("--dry-run", help="Say what is left to do and what it would take, from rows there or one text a method.")
    ] = False
    ray_address: Annotated[
        str | None, run_option(help="The cluster of Ray to use.", show_default="one started on this machine")
    ] = None
    executor_options: Annotated[
        list[str] | None,
        run_option("--executor-option", metavar="KEY=VALUE", help="An option of the executor; repeatable.", show_default=False),
    ] = None

    def options(self) -> dict[str, str]:
        """Return the options of the executor."""
        found = {} if self.ray_address is None else {"address": self.ray_address}
        for option in self.executor_options or ():
            name, equals, value = option.partition("=")
            if not (name and equals):
                raise UsageError(f"--executor-option is {option!r}; expected KEY=VALUE, such as partition=gpu")
            found[name] = value
        return found

    def judge(self) -> str | None:
        """Return the device of rewards and judges, None for the model's; one that cannot be used is an error here."""
        from fktext.batches import usable_device

        return None if self.judge_device is None else str(usable_device(self.judge_device))

    def part(self) -> tuple[int, int] | None:
        """Return which part of how many is to be done, None for all."""
        if self.shard is None:
            return None
        if not (found := re.fullmatch(r"(\d+)/(\d+)", self.shard)):
            raise UsageError(f"--shard is {self.shard!r}; expected I/N, such as 1/4")
        return int(found[1]), int(found[2])


class Several(TyperCommand):
    """Take several values after one option: `-n 4 8` for `-n 4 -n 8`. A value of --set has an equals sign, so a suite is none."""

    names = ("-n", "--particles", "--prompts", "-r", "--reward", "--held-out", "--set")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the option before each of its values."""
        spelled: list[str] = []
        last = ""
        for word in args:
            if word.startswith("-") and len(word) > 1:
                last = word if word in self.names else ""
            elif last and spelled[-1] != last and (last != "--set" or "=" in word):
                spelled.append(last)
            spelled.append(word)
        return super().parse_args(ctx, spelled)


@app.command(cls=Several)
@unfolded()
def run(
    name: SuiteName,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The folder of the run; an unfinished run in it is resumed.",
            show_default="runs/SUITE",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A model in place of the suite's.", show_default="the suite's", autocompletion=completion.models
        ),
    ] = None,
    *,
    change: Change,
    where: Where,
    loading: Loading,
) -> None:
    """Run a suite and print its report. The same command resumes an interrupted run.

    Of several shards, the one that finds all texts there prints it.

    Example: fktext eval run toxicity-smoke --limit 2 --set lam=2
    """
    import fktext_evals

    loading.part()
    registry = load_registry()
    with contextlib.redirect_stdout(sys.stderr):  # what models, rewards and plugins may print is no result
        suite = fktext_evals.load(name, registry, changes=change.values(), limit=change.limit)
    _carry_out(suite, model, out or str(Path("runs") / suite.name), where, loading, registry)


@app.command(cls=Several)
@unfolded()
def quick(
    *,
    model: Model = "tiny-mdlm",
    reward: RewardSpecs = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--held-out",
            metavar="REWARD",
            help="Judge by this, too; it does not steer. Repeatable.",
            show_default=False,
            autocompletion=completion.rewards,
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|TEXT...", help="Prompts, or .txt, .jsonl or .csv files of them.", show_default="15 beginnings"),
    ] = None,
    particles: Annotated[
        list[int] | None,
        typer.Option("--particles", "-n", min=1, metavar="N...", help="Particles of best-of-n and FK.", show_default="4 8"),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The folder of the run; an unfinished run in it is resumed.",
            show_default="one in runs",
        ),
    ] = None,
    change: Change,
    where: Where,
    loading: Loading,
) -> None:
    """Compare the plain model, best-of-n and FK steering by a reward of your choice, without writing a suite.

    The same command resumes an interrupted run. Settings of `fktext generate` and keys of a suite are changed by --set.

    Example: fktext eval quick -r sentiment --prompts "The movie" "The road" -n 4 8 --set length=24
    """
    from fktext_evals.suites import quick as quickly

    loading.part()
    registry = load_registry()
    with contextlib.redirect_stdout(sys.stderr):
        suite = quickly.suite(
            reward or [],
            None if prompts is None else list(_texts(prompts)),
            registry,
            model=model,
            held_out=held_out or [],
            particles=particles or quickly.PARTICLES,
            changes=change.values(),
        )
    folder = out or str(Path("runs") / quickly.folder_name(suite))
    _carry_out(suite.limited(change.limit), None, folder, where, loading, registry)


def _texts(given: Iterable[str]) -> Iterator[str]:
    """Yield prompts, those of files in their places."""
    from fktext.texts.prompts import read_prompts

    for each in given:
        if Path(each).suffix in (".txt", ".jsonl", ".csv"):
            yield from (prompt.text for prompt in read_prompts(Path(each).expanduser()))
        else:
            yield each


def _carry_out(suite: Suite, model: str | None, folder: str, where: Where, loading: Loading, registry: Registry) -> None:
    """Run a suite, and print its report if all its texts are there."""
    from fktext_evals.reporting import report as reports
    from fktext_evals.running import runner

    options: runner.Options = {
        "out": folder,
        "device": where.ready(),
        "dtype": loading.dtype,
        "compiled": loading.compiled,
        "batch_size": loading.batch_size,
        "offline": where.offline,
        "shard": loading.part(),
        "registry": registry,
        "judge_device": loading.judge(),
    }
    if loading.dry_run:
        with contextlib.redirect_stdout(sys.stderr):
            plan = runner.estimate(suite, model, **options)
        print_columns([asdict(share) for share in plan.shares])
        print(plan.line(loading.workers))
        return
    options |= {
        "executor": loading.executor,
        "workers": loading.workers,
        "retries": loading.retries,
        "options": loading.options(),
    }
    with contextlib.redirect_stdout(sys.stderr):
        try:
            steps = runner.run_steps(suite, model, **options)
            results = _follow(steps, suite.name)
        except KeyboardInterrupt:
            print(f"\ninterrupted; {folder} keeps what is done, and the same command resumes it", file=sys.stderr)
            raise
    print(f"the rows are in {folder}", file=sys.stderr)
    if results.missing:
        print(f"{results.missing} of {suite.texts} texts are missing: other shards make them", file=sys.stderr)
    else:
        _print(reports.report(results))
    if results.died:
        raise the_dead(results.died, len(results.rows), suite.modality)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs, finished or not.")],
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            "-f",
            help="Print Markdown, every metric as CSV, or tables for LaTeX's booktabs.",
            show_default="md, on a terminal tables; none with --html, --plots, --logs",
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
    lineages: Annotated[int, typer.Option(min=0, help="Prompts to draw lineages of on the page, and to write logs of.")] = 2,
    logs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write event logs here, of what lineages are drawn of, for fktext watch; they have texts."
        ),
    ] = None,
) -> None:
    """Print tables of runs, or write a page with tables, figures, lineages and texts."""
    from fktext_evals.reporting import report as reports

    if form in ("csv", "latex") and texts and html is None:
        raise UsageError("--texts is for --format md and --html; the texts are in the rows-*.jsonl files of the run")
    found = [_read(folder) for folder in runs]
    if html is not None:
        from fktext_evals.reporting import page

        file = html if html.suffix == ".html" and not html.is_dir() else html / "report.html"
        page.write(file, page.html(found, 2 if texts is None else texts, lineages))
        print(f"wrote {file}", file=sys.stderr)
    if plots is not None:
        from fktext_evals.reporting import plots as drawing

        for file in drawing.write(found, plots):
            print(f"wrote {file}", file=sys.stderr)
    if logs is not None:
        from fktext_evals.reporting import logs as event_logs

        for place, results in enumerate(found, 1):
            files = event_logs.write(results, logs / str(place) if len(found) > 1 else logs, lineages)
            print(f"wrote {len(files)} logs of {results.suite.name}", file=sys.stderr)
    if form == "csv":
        print(reports.as_csv(found), end="")
    elif form is not None or (html is None and plots is None and logs is None):
        _print(*(reports.report(results, 0 if form == "latex" else texts or 0) for results in found), form=form)


@app.command()
def compare(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")],
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help="The folder of another.", show_default="RUN")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME[:N]", help="A method of RUN.", show_default="all that both have")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="NAME[:N]", help="A method of OTHER.", show_default="the same")] = None,
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format", "-f", help="Markdown, CSV, or a table for LaTeX's booktabs.", show_default="md, on a terminal tables"
        ),
    ] = None,
) -> None:
    """Print RUN minus OTHER: paired differences over the same prompts, seeds and samples, with intervals.

    Example: fktext eval compare runs/a runs/b --method fk:8 --against best-of-n:16
    """
    from fktext_evals.reporting import compare as comparison

    ours = _read(run)
    theirs = ours if other is None else _read(other)
    found = comparison.compare(ours, theirs, method, against)
    if form == "csv":
        print(comparison.as_csv(ours, theirs, found), end="")
    else:
        _print(comparison.as_report(ours, theirs, found), form=form)


def _print(*reports: Report, form: ReportFormat | None = None) -> None:
    """Print reports as Markdown or LaTeX; on a terminal, unless one of these is asked for, as tables to look at."""
    from fktext_evals.reporting import blocks

    if form is None and sys.stdout.isatty():
        from rich.console import Console

        console = Console(file=sys.stdout, highlight=False)
        for report in reports:
            onscreen.show(report, console)
        return
    print("\n".join((blocks.latex if form == "latex" else blocks.markdown)(report) for report in reports), end="")


def _read(folder: str) -> Results:
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
    from fktext_evals.running.results import Results
    from fktext_evals.running.runner import Advanced, Note

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
