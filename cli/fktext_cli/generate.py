"""`fktext generate`: write steered texts for prompts."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from fktext.errors import UsageError
from fktext.settings import Settings
from fktext.texts.prompts import Prompt, read_prompts
from fktext_cli import live, output, ranks, tracing
from fktext_cli.beside import MOST, Beside, unsteered
from fktext_cli.common import create_rewards, method_for, provenance, steering
from fktext_cli.options import (
    BatchSize,
    Compiled,
    Dtype,
    Model,
    RewardSpecs,
    Where,
    Which,
    out_option,
    run_option,
    sample_option,
    unfolded,
)
from fktext_cli.progress import Bar, Tally, follow, stage

if TYPE_CHECKING:  # these import torch
    from fktext.population import Population
    from fktext.rewards import Weighted
    from fktext.settings import TextRun
    from fktext.texts.model import TextModel
    from fktext.texts.templates import Template


app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Out:
    """Options of what is printed, and where."""

    which: Which = "best"
    path: Annotated[Path | None, out_option("--output", "-o", help="Write here.", show_default="stdout")] = None
    form: Annotated[
        output.Format | None,
        out_option(
            "--format",
            "-f",
            help="Texts; a JSON object per line with all there is to know; or a table of the numbers.",
            show_default="jsonl or csv if --output ends so, else text",
        ),
    ] = None
    overwrite: Annotated[bool, out_option("--overwrite", help="Replace the --output file.")] = False
    resume: Annotated[bool, out_option("--resume", help="Resume an interrupted run from its --output file.")] = False
    trace: Annotated[
        Path | None,
        out_option(
            metavar="FILE",
            help="Also write what happened to every particle: .html to look at, .jsonl as a log while it happens, .json as data.",
            show_default=False,
        ),
    ] = None

    watch: Annotated[
        bool, out_option("--watch", help="Show the particles on the terminal while they are written, a line each.")
    ] = False

    @property
    def watched(self) -> bool:
        """Whether anybody asks what happens to every particle."""
        return self.watch or self.trace is not None

    def view(self, populations: int) -> Bar:
        """Return what shows how far so many populations are."""
        return live.View("generating", populations) if self.watch else Bar("generating")

    @property
    def kind(self) -> output.Format:
        """What is written: what was asked for, or else what the file's name says."""
        kinds: dict[str, output.Format] = {".jsonl": "jsonl", ".csv": "csv"}
        return self.form or kinds.get(self.path.suffix if self.path else "", "text")

    def seen(self, stdout: TextIO) -> bool:
        """Tell whether a person reads the texts on a terminal."""
        return stdout.isatty() and self.path is None and self.kind == "text"

    def check(self) -> None:
        """Refuse what cannot or should not be written, before anything is computed."""
        if self.resume and (self.path is None or self.kind != "jsonl" or self.overwrite):
            raise UsageError("--resume needs --output FILE and --format jsonl, and no --overwrite")
        if self.path is not None:
            again = "" if self.overwrite or self.resume else "--overwrite replaces it, --resume goes on with it"
            output.check_file("--output", self.path, again)
        if self.trace is not None:
            tracing.check(self.trace, overwrite=self.overwrite, resume=self.resume)

    def resume_point(
        self, run: dict[str, Any], requests: Sequence[str | Template], settings: TextRun
    ) -> tuple[set[tuple[int, int]], int | None]:
        """Find which populations an earlier run has written, and how many bytes of its file to keep; see `output.resume_point`."""
        if not self.resume or self.path is None or not self.path.exists():
            return set(), None
        found, keep = output.resume_point(self.path, run, requests, settings.particles if self.which == "all" else 1)
        were = "population is" if len(found) == 1 else "populations are"
        print(f"resuming: {len(found)} {were} in {self.path}", file=sys.stderr)
        return found, keep

    def renderer(self, run: dict[str, Any], prompts: Sequence[Prompt]) -> Callable[[Population], str]:
        """Return what makes the lines to write for a population."""
        if self.kind == "text":
            return lambda found: output.as_text([found.texts[index] for index in output.chosen(found, self.which)])
        names = dict.fromkeys(name for prompt in prompts for name in prompt.extra)
        lines = output.as_jsonl if self.kind == "jsonl" else output.Csv(tuple(names))

        def render(population: Population) -> str:
            extra = prompts[population.prompt_index].extra
            return lines(output.rows(population, self.which, {**run, "extra": extra} if extra else run))

        return render


@dataclass(frozen=True)
class Given:
    """Options that give texts to continue or fill."""

    prompts: Annotated[
        Path | None,
        sample_option(metavar="FILE", help="A file of prompts, .txt, .jsonl or .csv; - is standard input.", show_default=False),
    ] = None
    template: Annotated[
        list[str] | None,
        sample_option(
            metavar="TEXT", help='A text to fill, {n} for n tokens: "The {5} sat on the {3}."; repeatable.', show_default=False
        ),
    ] = None

    def read(self, arguments: list[str]) -> list[Prompt]:
        """Return the prompts; a malformed template is an error here, before a model is loaded."""
        templates = self.template or []
        if (arguments or templates) and self.prompts is not None:
            raise UsageError(f"give {'prompts as arguments' if arguments else '--template'} or --prompts, not both")
        if arguments and templates:
            raise UsageError("give prompts or --template, not both; a .jsonl file of --prompts may hold both")
        if self.prompts is not None:
            return read_prompts(self.prompts, templates=True)
        found = [Prompt(text, is_template=True) for text in templates] or [Prompt(text) for text in arguments or [""]]
        for prompt in found:
            _ = prompt.request
        return found


@dataclass(frozen=True)
class Network:
    """Options of how the model is loaded."""

    dtype: Dtype = "float32"
    device_map: Annotated[
        Literal["auto"] | None,
        run_option(help="Let accelerate spread LLaDA, Dream or DiffusionGemma over all GPUs and memory.", show_default=False),
    ] = None
    compiled: Compiled = False

    def load(self, name: str, device: str, *, offline: bool, chat: bool) -> TextModel:
        """Load a model accordingly."""
        from fktext.models import load

        model = load(name, device=device, dtype=self.dtype, offline=offline, device_map=self.device_map, chat=chat)
        return model.compiled() if self.compiled else model


@app.command()
@unfolded()
def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Texts to continue; none for texts from scratch.")
    ] = None,
    *,
    model: Model = "tiny-mdlm",
    given: Given,
    chat: Annotated[
        bool, sample_option("--chat", help="Put prompts into the model's chat template; the texts are its answers.")
    ] = False,
    reward: RewardSpecs = None,
    asked: Settings,
    where: Where,
    network: Network,
    batch_size: BatchSize = None,
    spread: Annotated[
        bool, run_option("--spread", help="Under torchrun: share the particles of each population between GPUs.")
    ] = False,
    out: Out,
) -> None:
    """Generate texts that score high.

    Draws from the tilted law p(text) exp(lambda reward(text)) with a population of particles per text.

    Example: fktext generate --reward toxicity:target=nontoxic "The book"
    """
    stdout, leads = sys.stdout, ranks.leads(spread)
    out.check()
    asked = replace(asked, method=method_for(reward, asked.method))
    prompts = given.read(prompt or [])
    _check_options(asked, prompts, network, spread)
    with ranks.together(spread, where.ready()) as device, contextlib.redirect_stdout(sys.stderr):
        with stage("loading rewards"):
            from fktext import values
            from fktext.texts.generate import generate as texts_of

            terms = create_rewards(reward or [], device, where.offline, batch_size)
        with stage(f"loading {Path(model).name}"):
            loaded = network.load(model, device, offline=where.offline, chat=chat)
        settings = values.named(loaded, terms, loaded.resolve(asked))
        values.plan(loaded, terms, settings)  # a value that is not theirs is told of before anything else
        _tell(loaded, terms, prompts, settings)
        named = {"name": loaded.name, "digest": loaded.digest, **({"chat": True} if chat else {})}
        run = provenance(named, terms, settings, {"dtype": network.dtype, "return": out.which, "rewards": reward or []})
        requests = [each.request for each in prompts]
        skip, keep = out.resume_point(run, requests, settings) if leads else (set(), None)
        skip = ranks.agree(spread, skip)
        how: dict[str, Any] = {"skip": skip, "watch": leads and out.watched, "spread": spread}
        found = texts_of(loaded, terms, requests, settings, batch_size=batch_size, **how)
        wanted = len(requests) * settings.samples - len(skip)
        beside = None
        if leads and out.seen(stdout) and settings.method != "base" and wanted <= MOST:
            alone = texts_of(loaded, terms, requests, unsteered(asked), batch_size=batch_size)
            beside = Beside(terms, _unsteered(alone, wanted), out.which)
        render = beside.render if beside else out.renderer(run, prompts)
        trace = tracing.Trace(out.trace if leads else None, run, out.which, wanted)
        with _writer(out, keep, stdout, render, trace) if leads else contextlib.nullcontext(lambda each: each) as take:
            tally = follow(found, take, wanted, "written", view=out.view(wanted) if leads else None, see=trace.see)
        _conclude(tally, settings.particles, beside, costs=where.verbose or not out.seen(stdout))


def _check_options(asked: Settings, prompts: Sequence[Prompt], network: Network, spread: bool) -> None:
    """Refuse options that do not go together."""
    if all(each.is_template for each in prompts) and (asked.length or asked.stride):
        option = "length" if asked.length else "stride"
        raise UsageError(f"--{option} has no use here: a template says itself how long its text is")
    if network.device_map and (network.compiled or spread):
        raise UsageError(f"--device-map does not go with --{'compile' if network.compiled else 'spread'}")


def _conclude(tally: Tally, particles: int, beside: Beside | None, costs: bool) -> None:
    """Say on stderr what came out and, if asked for, what it cost."""
    if beside:
        print(beside.verdict(), file=sys.stderr)
    if costs:
        print(f"{tally.size(particles)}: {tally.cost(particles, decimals=1)}", file=sys.stderr)
    if tally.dead:
        raise output.the_dead(tally.dead, tally.done, hard=tally.hard)


def _unsteered(found: Iterable[Any], wanted: int) -> dict[tuple[int, int], Population]:
    """Return what the model writes by itself, by prompt and sample."""
    texts: dict[tuple[int, int], Population] = {}

    def keep(population: Population) -> Population:
        texts[population.prompt_index, population.sample_index] = population
        return population

    follow(found, keep, wanted, "written", "unsteered, to compare")
    return texts


@contextlib.contextmanager
def _writer(
    out: Out, keep: int | None, stdout: TextIO, render: Callable[[Population], str], trace: tracing.Trace
) -> Iterator[Callable[[Population], Population]]:
    """Open what populations are written to, as they come."""
    sink = output.Sink(out.path, stdout, overwrite=out.overwrite, keep=keep)
    with trace, sink:

        def write(population: Population) -> Population:
            sink.write(render(population))
            trace.add(population)
            if population.dead:
                print(f"dead: {population.obituary()}", file=sys.stderr)
            return population

        yield write


def _tell(model: TextModel, terms: Sequence[Weighted], prompts: Sequence[Prompt], settings: TextRun) -> None:
    """Check the prompts, and say on stderr what steers them and what may not be meant."""
    _check_prompts(model, prompts, settings)
    _announce(model, terms, settings)
    _warn(prompts, settings)


def _announce(model: TextModel, terms: Sequence[Weighted], settings: TextRun) -> None:
    """Say on stderr what steers, and whether texts are written in windows."""
    from fktext import values
    from fktext.texts.values import PILOT

    for line in steering(terms, settings):
        print(line, file=sys.stderr)
    if settings.by_value:
        print("looking ahead by a learned value: the reward is asked about finished texts only", file=sys.stderr)
        if values.pilots(settings):
            cost = f"{PILOT} texts of the model are drawn and judged, which is counted in what the run cost"
            print(f"fitting the value first: {cost}", file=sys.stderr)
    if settings.stride:
        most, each = model.denoiser.max_length, f"each {settings.stride} tokens on, {settings.steps} steps each"
        print(f"length {settings.length} is beyond the model's {most} tokens: written in windows, {each}", file=sys.stderr)
    elif settings.length > (most := model.denoiser.max_length):
        print(f"length {settings.length} is beyond the model's {most} tokens: the oldest blocks are forgotten", file=sys.stderr)


def _warn(prompts: Sequence[Prompt], settings: TextRun) -> None:
    """Say on stderr what is allowed and seldom meant: gaps in what is no template, and steering that cannot choose."""
    gap = next((found[0] for each in prompts if not each.is_template and (found := re.search(r"\{[1-9][0-9]*\}", each.text))), "")
    if gap:
        print(f"{gap} is written as it stands; --template {prompts[0].text!r} would fill it", file=sys.stderr)
    if settings.method != "fk" or settings.proposal != "base":
        return
    if settings.particles == 1:
        print("1 particle: there is nothing to choose from, so this is the model alone; try -n 16", file=sys.stderr)
    elif settings.ess_threshold * settings.particles <= 1:
        why = f"{settings.particles} particles never fall below --ess-threshold {settings.ess_threshold:g}"
        print(f"{why}: none is resampled, the best is chosen at the end", file=sys.stderr)


def _check_prompts(model: TextModel, prompts: Sequence[Prompt], settings: TextRun) -> None:
    """Check every prompt against the model, so that an error can name its line."""
    for prompt in prompts:
        try:
            prompt.text.encode()
            model.template(prompt.request, settings.length)
        except UnicodeEncodeError as error:
            raise UsageError(f"{prompt.where or 'prompt'}: {prompt.text!r} is not valid Unicode") from error
        except UsageError as error:
            raise UsageError(f"{prompt.where}: {error}" if prompt.where else str(error)) from error
