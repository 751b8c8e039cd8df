"""`fktext image generate`: steered images for a prompt, or from a pipeline that takes none."""

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
from fktext_cli.common import check_rewards, create_rewards, group, provenance, steering
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
    from fktext.rewards import Weighted
    from fktext.runs import Population
    from fktext.settings import Method, Run
    from fktext_evals.image_comparison import ImageJudge

COMPARED: tuple[Method, ...] = ("best-of-n", "fk")  # the unsteered images are those that best-of-n chooses from
MOST_PIXELS = 16_384
MOST_SCALE = 1_000.0
Pixels = Annotated[int | None, sample_option(min=1, max=MOST_PIXELS, help="In pixels.", show_default="the model's")]
app = group("Steer diffusers pipelines of images.")


@dataclass(frozen=True)
class Call:
    """What a pipeline is called with; None is its own."""

    guidance_scale: Annotated[
        float | None,
        sample_option(min=-MOST_SCALE, max=MOST_SCALE, help="Of classifier-free guidance.", show_default="the pipeline's"),
    ] = None
    eta: Annotated[
        float | None, sample_option(min=0, max=1, help="Noise of DDIM; above 0.", show_default="1 where the scheduler takes it")
    ] = None
    height: Pixels = None
    width: Pixels = None


@dataclass(frozen=True)
class Comparison:
    """Whether methods are compared, and by what."""

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
            help="What --compare measures by; not what steers.",
            show_default="the reward's own second opinion",
        ),
    ] = None

    def check(self, method: Method) -> None:
        """Refuse what contradicts itself."""
        if self.compare and method != "fk":
            raise UsageError(f"--compare runs every method, and came with --method {method}")
        if self.judge and (self.compare is False or method != "fk"):
            raise UsageError("--judge is for --compare")

    def by(self, terms: Sequence[Weighted], method: Method, device: str, offline: bool) -> ImageJudge | None:
        """A reward that has not steered; None where nothing is compared.

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


@app.command()
@unfolded(
    *("samples", "steps", "seed", "particles", "method", "lam", "potential", "resample_every", "ess_threshold", "resampler"),
    "pseudo_count",
    particles=4,
    steps=50,
    x0_samples=1,
)
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to show; none for a pipeline that takes none.", show_default=False)
    ] = "",
    *,
    model: Annotated[
        str, sample_option("--model", "-m", help="tiny-digits (embedded), or a folder or hub id of diffusers.")
    ] = "tiny-digits",
    scheduler: Annotated[
        Literal["ddim", "ddpm", "euler-ancestral", "sde-dpmsolver", "flow-sde"] | None,
        sample_option(help="The sampler; it must draw noise on the way.", show_default="the model's"),
    ] = None,
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
    which: Which = "best",
    folder: Annotated[Path, out_option("--output", "-o", metavar="DIR", help="Where files go.")] = Path("images"),
    overwrite: Annotated[bool, out_option("--overwrite", help="Replace what an earlier run left in --output.")] = False,
) -> None:
    """Generate images that score high, and print the names of their files.

    Draws from the tilted law p(image) exp(lambda reward(image)) with a population of particles per image.

    Beside each image there is a sheet of its whole population, the heaviest first.
    rows.jsonl has a row per image, trace.html and trace.json who descends from whom.
    On the embedded digits stderr ends with the share of base, best-of-n and fk that another classifier takes for the digit.

    Example: fktext image generate --model tiny-digits --reward digit:label=7 --particles 16
    """
    method = asked.method
    check_rewards(reward, method)
    comparison.check(method)
    _check_folder(folder, overwrite)
    device, stdout = where.ready(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what models, rewards and plugins may print is no result
        from fktext.images import generate as images
        from fktext.images import pipelines

        pipeline, digest = pipelines.load(model, device=device, dtype=dtype, offline=where.offline, scheduler=scheduler)
        settings = images.resolve(asked)
        options = images.call_options(pipeline, **asdict(call))
        terms = create_rewards(reward or [], device, where.offline, batch_size, "image")
        opinion = comparison.by(terms, method, device, where.offline)
        for line in steering(terms, settings):
            print(line, file=sys.stderr)
        kinds = {"pipeline": type(pipeline).__name__, "scheduler": type(pipeline.scheduler).__name__}
        named = {"name": model, "digest": digest, **kinds}
        run = provenance(named, terms, settings, {**options, "dtype": dtype, "return": which, "rewards": reward or []})
        found: dict[str, list[Population]] = {}
        with _Files(folder, which, run, stdout) as files:
            for each in COMPARED if opinion else [method]:
                populations = images.generate(
                    pipeline, terms, [prompt], replace(settings, method=each), batch_size=batch_size, **options
                )
                found[each] = _made(populations, replace(settings, method=each), files if each == method else None)
        if opinion is not None:
            from fktext_evals import image_comparison

            verdicts = image_comparison.compare(found, opinion, lambda population: output.chosen(population, which))
            print(*image_comparison.lines(verdicts, opinion), sep="\n", file=sys.stderr)
        if dead := sum(population.dead for population in found[method]):
            raise output.the_dead(dead, len(found[method]), "image")


def _made(found: Iterable[Any], settings: Run, files: _Files | None) -> list[Population]:
    """The populations of one method, written where there are files for them; how far it is and what it cost goes to stderr."""
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
    """What a run leaves in its folder.

    Args:
        folder: made when the first population comes.
        which: of each population, the images to keep.
        run: what all images have in common.
        stdout: where the names of the images go.
    """

    def __init__(self, folder: Path, which: output.Return, run: dict[str, Any], stdout: Any) -> None:
        self._folder, self._which, self._run, self._stdout = folder, which, run, stdout
        self._rows: list[str] = []
        self._traces = [tracing.Trace(folder / f"trace{suffix}", run, which) for suffix in (".html", ".json")]

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:

        if self._rows:
            output.write(self._folder / "rows.jsonl", "".join(self._rows).encode())
            for trace in self._traces:
                with trace:
                    pass

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
        """Make the folder; what an earlier run left in it goes, so that no file is of another run than its neighbours."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for old in _left(self._folder):
                old.unlink()
        except OSError as error:
            raise output.OutputError(f"cannot make room in the folder {str(self._folder)!r}: {error.strerror}") from error


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse what cannot or should not be written, before anything is computed."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"--output {str(folder)!r}: {str(there)!r} is not a folder")
    if not os.access(there, os.W_OK):
        raise UsageError(f"--output {str(folder)!r}: {str(there)!r} cannot be written to")
    if _left(folder) and not overwrite:
        raise UsageError(f"--output {str(folder)!r} has images of another run; --overwrite replaces them")


def _left(folder: Path) -> list[Path]:
    """The files of a run."""
    patterns = ("sample-*-particle-*.png", "sample-*-population.png", "rows.jsonl", "trace.html", "trace.json")
    return [file for pattern in patterns for file in folder.glob(pattern)]
