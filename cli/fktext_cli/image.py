"""`fktext image generate`: make steered images."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fktext.errors import UsageError
from fktext.settings import Settings
from fktext_cli import output, tracing
from fktext_cli.common import create_rewards, group, method_for, provenance, steering
from fktext_cli.options import (
    MOST_BATCH,
    Dtype,
    RewardSpecs,
    Where,
    Which,
    out_option,
    run_option,
    sample_option,
    steer_option,
    unfolded,
)
from fktext_cli.progress import follow

if TYPE_CHECKING:  # these import torch
    from fktext.population import Population
    from fktext.rewards import Weighted
    from fktext.settings import Method, Run
    from fktext_evals.image_comparison import ImageJudge

COMPARED: tuple[Method, ...] = ("best-of-n", "fk")  # best-of-n chooses from unsteered images, which are base
MOST_PIXELS = 16_384
MOST_SCALE = 1_000
Pixels = Annotated[int | None, sample_option(min=1, max=MOST_PIXELS, help="In pixels.", show_default="the model's")]
app = group("Steer diffusers pipelines of images.")


@dataclass(frozen=True)
class Network:
    """Options of how the pipeline is loaded."""

    model: Annotated[str, sample_option("--model", "-m", help="tiny-digits (embedded), or a folder or hub id of diffusers.")] = (
        "tiny-digits"
    )
    scheduler: Annotated[
        Literal["ddim", "ddpm", "euler-ancestral", "sde-dpmsolver", "flow-sde"] | None,
        sample_option(help="The sampler; it must draw noise at every step.", show_default="the model's"),
    ] = None

    def load(self, device: str, dtype: str, *, offline: bool) -> tuple[Any, dict[str, Any]]:
        """Load the pipeline, and say what it is."""
        from fktext.images import pipelines

        found, digest = pipelines.load(self.model, device=device, dtype=dtype, offline=offline, scheduler=self.scheduler)
        kinds = {"pipeline": type(found).__name__, "scheduler": type(found.scheduler).__name__}
        return found, {"name": self.model, "digest": digest, **kinds}


@dataclass(frozen=True)
class Call:
    """Options that the pipeline is called with; None leaves its own."""

    guidance_scale: Annotated[
        float | None,
        sample_option(min=-MOST_SCALE, max=MOST_SCALE, help="Strength of classifier-free guidance.", show_default="the pipeline's"),
    ] = None
    eta: Annotated[
        float | None, sample_option(min=0, max=1, help="Noise of DDIM; above 0.", show_default="1 where the scheduler takes it")
    ] = None
    height: Pixels = None
    width: Pixels = None


@dataclass(frozen=True)
class Comparison:
    """Options of whether methods are compared, and by what."""

    compare: Annotated[
        bool | None,
        steer_option(
            "--compare/--no-compare",
            help="Also run best-of-n, and let a judge measure base, best-of-n and fk.",
            show_default="where a reward has its own second opinion, as digit",
        ),
    ] = None
    judge: Annotated[
        str | None,
        steer_option(
            metavar="NAME[:option=value,...]",
            help="What --compare measures by; it must not steer.",
            show_default="the reward's own second opinion",
        ),
    ] = None

    def check(self, method: Method) -> None:
        """Refuse options that contradict each other."""
        if self.compare and method != "fk":
            raise UsageError(f"--compare runs every method, and came with --method {method}")
        if self.judge and (self.compare is False or method != "fk"):
            raise UsageError("--judge is for --compare")

    def by(self, terms: Sequence[Weighted], method: Method, device: str, offline: bool) -> ImageJudge | None:
        """Return a reward that does not steer, to compare by; None where nothing is compared.

        Raises:
            UsageError: the one given steers, or none is given and the rewards have no second opinion.
        """
        from fktext_evals.image_comparison import ImageJudge

        if method != "fk" or self.compare is False:
            return None
        if self.judge is not None:
            (term,) = create_rewards([self.judge], device, offline, None, "image")
            if term.name in {other.name for other in terms}:
                raise UsageError(f"--judge {self.judge!r} is what steers: judge by another reward")
            return ImageJudge(term.name, term.reward)
        for term in terms:
            if (opinion := getattr(term.reward, "second_opinion", lambda: None)()) is not None:
                return ImageJudge(f"{term.name} as {opinion.model} sees it", opinion)
        if self.compare:
            raise UsageError("--compare needs a --judge: these rewards have no second opinion of their own")
        return None


@dataclass(frozen=True)
class Out:
    """Options of what is written, and where."""

    which: Which = "best"
    folder: Annotated[Path, out_option("--output", "-o", metavar="DIR", help="The folder to write to.")] = Path("images")
    overwrite: Annotated[bool, out_option("--overwrite", help="Replace what an earlier run left in --output.")] = False

    def check(self) -> None:
        """Refuse what cannot or should not be written, before anything is computed."""
        named = f"--output {str(self.folder)!r}"
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UsageError(f"{named}: {str(there)!r} is not a folder")
        if not os.access(there, os.W_OK):
            raise UsageError(f"{named}: {str(there)!r} cannot be written to")
        if _left(self.folder) and not self.overwrite:
            raise UsageError(f"{named} has images of another run; --overwrite replaces them")


@app.command()
@unfolded(
    *("samples", "steps", "seed", "particles", "method", "lam", "potential", "resample_every", "ess_threshold", "resampler"),
    "pseudo_count",
    "candidates",
    "temper",
    particles=4,
    steps=50,
    x0_samples=1,
)
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to show; leave it out for a pipeline that takes none.", show_default=False)
    ] = "",
    *,
    network: Network,
    call: Call,
    reward: RewardSpecs = None,
    asked: Settings,
    comparison: Comparison,
    where: Where,
    dtype: Dtype = "float32",
    batch_size: Annotated[
        int | None,
        run_option(min=1, max=MOST_BATCH, help="Images computed at once, a population at least.", show_default="by model"),
    ] = None,
    out: Out,
) -> None:
    """Generate images that score high, and print the names of their files.

    Draws from the tilted law p(image) exp(lambda reward(image)) with a population of particles per image.

    Beside each image there is a sheet of its whole population, the heaviest first.
    rows.jsonl has a row per image; trace.html and trace.json show which particle descends from which.
    With the embedded digits, stderr ends with the share of base, best-of-n and fk that a second classifier reads as the digit.

    Example: fktext image generate --model tiny-digits --reward digit:label=7 --particles 16
    """
    asked = replace(asked, method=method_for(reward, asked.method))
    comparison.check(asked.method)
    out.check()
    device, stdout = where.ready(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what models, rewards and plugins may print is no result
        from fktext.images import generate as images

        pipeline, named = network.load(device, dtype, offline=where.offline)
        settings = images.resolve(asked)
        options = images.call_options(pipeline, **asdict(call))
        terms = create_rewards(reward or [], device, where.offline, batch_size, "image")
        opinion = comparison.by(terms, settings.method, device, where.offline)
        for line in steering(terms, settings):
            print(line, file=sys.stderr)
        more = {**options, "dtype": dtype, "return": out.which, "rewards": reward or []}
        found: dict[str, list[Population]] = {}
        with _Files(out, provenance(named, terms, settings, more), stdout) as files:
            for method in COMPARED if opinion else [settings.method]:
                each = replace(settings, method=method)
                populations = images.generate(pipeline, terms, [prompt], each, batch_size=batch_size, **options)
                found[method] = _made(populations, each, files if method == settings.method else None)
        if opinion is not None:
            from fktext_evals import image_comparison

            verdicts = image_comparison.compare(found, opinion, lambda population: output.chosen(population, out.which))
            print(*image_comparison.lines(verdicts, opinion), sep="\n", file=sys.stderr)
        if dead := sum(population.dead for population in found[settings.method]):
            raise output.the_dead(dead, len(found[settings.method]), "image")


def _made(found: Iterable[Any], settings: Run, files: _Files | None) -> list[Population]:
    """Return the populations of one method, written if there are files for them; progress and cost go to stderr."""
    made: list[Population] = []

    def take(population: Population) -> Population:
        made.append(population)
        if files is not None:
            files.add(population)
        return population

    tally = follow(found, take, settings.samples, "made")
    dead = f", {tally.dead} dead: every image has a reward of -inf" * (tally.dead > 0)
    size = settings.particles
    print(f"{settings.method}: {tally.size(size)}, {tally.cost(size, decimals=0)}{dead}", file=sys.stderr)
    return made


class _Files:
    """Write what a run leaves in its folder.

    Args:
        out: the folder, which is made when the first population comes, and of each population the images to keep.
        run: what all images have in common.
        stdout: where the names of the images go.
    """

    def __init__(self, out: Out, run: dict[str, Any], stdout: Any) -> None:
        self._folder, self._which, self._run, self._stdout = out.folder, out.which, run, stdout
        self._rows: list[str] = []
        self._traces = [tracing.Trace(out.folder / f"trace{suffix}", run, out.which) for suffix in (".html", ".json")]

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows:
            output.write(self._folder / "rows.jsonl", "".join(self._rows).encode())
            for trace in self._traces:
                trace.write()

    def add(self, population: Population) -> None:
        """Write one population's images and its sheet."""
        from fktext.images.pictures import png
        from fktext_cli import pictures

        if not self._rows:
            self._prepare()
        name = f"sample-{population.sample_index:03d}"
        weights = population.log_w.exp().tolist()
        sheet = pictures.sheet([image.pixels for image in population.samples], weights)
        output.write(self._folder / f"{name}-population.png", png(sheet, self._run))
        for row in output.rows(population, self._which, self._run):
            path = self._folder / f"{name}-particle-{row['particle']}.png"
            row = {"file": None if population.dead else path.name, **row}
            if not population.dead:
                output.write(path, png(population.samples[row["particle"]].pixels, row))
                print(path, file=self._stdout, flush=True)
            self._rows.append(json.dumps(row, allow_nan=False) + "\n")
        for trace in self._traces:
            trace.add(population)

    def _prepare(self) -> None:
        """Make the folder, and delete what an earlier run left in it, so that all files are of one run."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for old in _left(self._folder):
                old.unlink()
        except OSError as error:
            raise output.OutputError(f"cannot make room in the folder {str(self._folder)!r}: {error.strerror}") from error


def _left(folder: Path) -> list[Path]:
    """Find the files of a run."""
    patterns = ("sample-*-particle-*.png", "sample-*-population.png", "rows.jsonl", "trace.html", "trace.json")
    return [file for pattern in patterns for file in folder.glob(pattern)]
