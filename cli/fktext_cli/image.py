"""`fktext image generate`: make steered images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fktext.errors import UsageError
from fktext.settings import STEERING, Settings
from fktext.texts.prompts import read_prompts
from fktext_cli import output
from fktext_cli.common import create_rewards, group, method_for, provenance, steering
from fktext_cli.image_files import Files, Out
from fktext_cli.options import (
    MOST_BATCH,
    Dtype,
    RewardSpecs,
    Where,
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

MOST_PIXELS = 16_384
MOST_SCALE = 1_000
Pixels = Annotated[int | None, sample_option(min=1, max=MOST_PIXELS, help="In pixels.", show_default="the model's")]
app = group("Steer diffusers pipelines of images.")


@dataclass(frozen=True)
class Network:
    """Options of how the pipeline is loaded."""

    model: Annotated[
        str, sample_option("--model", "-m", help="An embedded pipeline, a folder, an alias or a hub id of diffusers.")
    ] = "tiny-digits"
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
            help="Also run best-of-n, and let a judge measure base, best-of-n and fk; --no-compare runs nothing unsteered.",
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

    def runs(self, settings: Run, *, judged: bool) -> list[Run]:
        """Return what to run: first what is unsteered, to be shown beside, last what is asked for.

        Best-of-n chooses from unsteered images. Where nothing is judged, the pipeline's own image by the same seed will do.
        """
        if judged:
            return [replace(settings, method="best-of-n"), settings]
        if settings.method in STEERING and self.compare is not False:
            return [replace(settings, method="base", particles=1), settings]
        return [settings]


@dataclass(frozen=True)
class Given:
    """Options that say what to show."""

    prompts: Annotated[Path | None, sample_option(help="A file of prompts: .txt, .jsonl or .csv.", show_default=False)] = None

    def read(self, arguments: list[str]) -> list[str]:
        """Return the prompts, one of nothing where none is given."""
        if arguments and self.prompts is not None:
            raise UsageError("give prompts as arguments or --prompts, not both")
        return [prompt.text for prompt in read_prompts(self.prompts)] if self.prompts else arguments or [""]


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
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to show; none for a pipeline that takes none.")
    ] = None,
    *,
    network: Network,
    given: Given,
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

    Beside each image there is a sheet of its whole population with rewards, the unsteered on its left.
    rows.jsonl has a row per image; trace.html shows which particle descends from which, and what each was thought to become.
    With the embedded digits, stderr ends with the share of base, best-of-n and fk that a second classifier reads as the digit.

    Example: fktext image generate --model tiny-digits --reward digit:label=7 --particles 16
    """
    asked = replace(asked, method=method_for(reward, asked.method))
    comparison.check(asked.method)
    out.check()
    prompts = given.read(prompt or [])
    device, stdout = where.ready(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what models, rewards and plugins may print is no result
        from fktext.images import generate as images
        from fktext_evals import image_comparison

        settings = images.resolve(asked)
        terms = create_rewards(reward or [], device, where.offline, batch_size, "image")  # before a large pipeline is loaded
        opinion = comparison.by(terms, settings.method, device, where.offline)
        pipeline, named = network.load(device, dtype, offline=where.offline)
        options = images.call_options(pipeline, **asdict(call))
        for line in steering(terms, settings):
            print(line, file=sys.stderr)
        more = {**options, "dtype": dtype, "return": out.which, "enlarge": out.enlarge, "rewards": reward or []}
        compared: dict[str, list[Population]] = {}
        with Files(out, provenance(named, terms, settings, more), terms, len(prompts), stdout) as files:
            for each in comparison.runs(settings, judged=opinion is not None):
                last = each is settings
                found = images.generate(pipeline, terms, prompts, each, batch_size=batch_size, watch=last, **options)
                keep = compared.setdefault(each.method, []) if opinion is not None else None
                dead = _run(found, each, len(prompts), files, keep, last=last)
        if opinion is not None:
            verdicts = image_comparison.compare(compared, opinion, lambda population: output.chosen(population, out.which))
            print(*image_comparison.lines(verdicts, opinion), sep="\n", file=sys.stderr)
        if dead:
            raise output.the_dead(dead, len(prompts) * settings.samples, "image")


def _run(found: Iterable[Any], settings: Run, prompts: int, files: Files, keep: list[Population] | None, *, last: bool) -> int:
    """Write the populations of one method, and keep them if there is where; return how many are dead.

    Progress and cost go to stderr.
    """

    def take(population: Population) -> Population:
        (files.add if last else files.keep_unsteered)(population)
        if keep is not None:
            keep.append(replace(population, events=()))
        return population

    tally = follow(found, take, prompts * settings.samples, "made", see=files.see if last else None)
    dead = f", {tally.dead} dead: every image has a reward of -inf" * (tally.dead > 0)
    size = settings.particles
    print(f"{settings.method}: {tally.size(size)}, {tally.cost(size, decimals=0)}{dead}", file=sys.stderr)
    return tally.dead
