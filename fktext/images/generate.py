"""Generate weighted populations of images from prompts: the one call behind `fktext image generate`."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from operator import methodcaller
from typing import Any, Literal

from fktext.errors import UsageError
from fktext.images.process import DiffusersProcess
from fktext.population import Member, Population
from fktext.rewards import Scorer, Weighted
from fktext.runs import Batch, Progress, members, populations
from fktext.settings import Run, Settings
from fktext.trace import Board

STEPS = 50
SIDE, FINAL_SIDE = 64, 160  # pixels of the longer side of a thumbnail: on the way, and of a finished image
_TEXT_ONLY = ("length", "stride", "kernel", "temperature", "top_p")


def resolve(asked: Settings) -> Run:
    """Return what is asked for, with the steps, the cadence and the particles named.

    Raises:
        UsageError: a setting that only texts have, or several predictions of x0.
    """
    for name in _TEXT_ONLY:
        if getattr(asked, name) is not None:
            raise UsageError(f"{name} is a setting of texts, got {getattr(asked, name)}")
    if asked.look_ahead not in (None, "predictions", "none"):
        raise UsageError(
            f"an image pipeline has no learned values: look-ahead must be 'predictions' or 'none', got {asked.look_ahead!r}"
        )
    if asked.x0_samples != 1:
        raise UsageError(f"an image pipeline has one guess of x0 per particle: x0_samples must be 1, got {asked.x0_samples}")
    if asked.method == "particle-gibbs":
        raise UsageError("method 'particle-gibbs' is for texts: an image pipeline cannot put a particle back")
    return Run.of(asked, asked.steps or STEPS)


def call_options(pipeline: Any, **given: Any) -> dict[str, Any]:
    """Return those options of a pipeline's call that are not None; eta is 1 where its scheduler takes one.

    Raises:
        UsageError: the scheduler takes no eta, or one that is not a share of DDPM's noise.
    """
    takes_eta = "eta" in inspect.signature(pipeline.scheduler.step).parameters
    options = {name: value for name, value in given.items() if value is not None}
    if "eta" in options and not takes_eta:
        raise UsageError(f"{type(pipeline.scheduler).__name__} takes no eta")
    if not 0 <= options.get("eta", 1.0) <= 1:
        raise UsageError(f"eta is {options['eta']}: expected 0 to 1, a share of DDPM's noise")
    return {"eta": 1.0, **options} if takes_eta else options


def generate(
    pipeline: Any,
    terms: Sequence[Weighted],
    prompts: Sequence[str],
    settings: Settings | Run,
    *,
    batch_size: int | None = None,
    skip: Container[tuple[int, int]] = (),
    guesses: bool = False,
    watch: bool = False,
    guess_side: int | None = None,
    **options: Any,
) -> Iterator[Progress | Population]:
    """Generate `settings.samples` weighted populations of images for each prompt.

    Args:
        pipeline: from `fktext.images.pipelines.load`, or any of diffusers.
        terms: weighted rewards of images; may be empty with method "base".
        prompts: [""] for a pipeline that takes none.
        settings: with x0_samples=1, and None for what only texts have.
        batch_size: most images computed (whole populations, at least one) and decoded at once; default 8 for a pipeline with a
            VAE, 64 for one of pixels.
        skip: (prompt index, sample index) of populations that are there already.
        guesses: keep what each particle was thought to become: one image per particle and weighing.
        watch: yield and keep what happened to every particle, with thumbnails; see `fktext.trace`.
        guess_side: shrink these to so many pixels on the longer side, so that memory holds them; None keeps them as they are.
        options: of the pipeline's call, see `call_options`.

    Yields:
        `Progress` after each weighing, and populations in order.

    Raises:
        UsageError: a setting out of range, a sampler that cannot be steered, an option the pipeline does not take.
        RewardError: a reward failed. FktextError: a weight is beyond any number, and the message names the prompt; or memory does
            not hold the images.
    """
    run = settings if isinstance(settings, Run) else resolve(settings)
    if not terms and run.method != "base":
        raise UsageError(f"method {run.method!r} needs a reward")
    rows = batch_size or (8 if hasattr(pipeline, "vae") else 64)
    size = run.particles

    def batch(chosen: Sequence[Member]) -> Batch:
        asked = [member.prompt for member in chosen]
        process = lambda: closing(DiffusersProcess(pipeline, asked, size, run.steps, batch_size=rows, **options))  # noqa: E731
        return Batch(chosen, run.steps, process, ImageView(len(asked)))

    names = [("image", prompt) for prompt in prompts]
    wanted = members(run.seed, names, [(prompt, None) for prompt in prompts], run.samples, skip)
    group = max(1, rows // size)
    batches = [batch(wanted[first : first + group]) for first in range(0, len(wanted), group)]

    def too_large(number: int) -> str:
        return (
            f"memory does not hold {number * size} images at once: give fewer particles"
            f"{', a smaller batch size' * (number > 1)}, a narrower dtype, or a pipeline with offload"
        )

    small, scorer = None if guess_side is None else methodcaller("shrunk", guess_side), Scorer(terms)
    yield from populations(batches, run, scorer, run.plan(), "cpu", guesses=guesses, watch=watch, small=small, too_large=too_large)


class ImageView:
    """Show the images of a batch as thumbnails; see `fktext.runs.View`."""

    modality: Literal["image"] = "image"

    def __init__(self, populations: int) -> None:
        self.given: Sequence[Board] = [()] * populations

    def boards(self, state: Any) -> Sequence[Board]:
        """Return nothing: an image has no positions that are known one by one."""
        return ()

    def show(self, sample: Any, *, last: bool) -> str:
        """Return a thumbnail as a `data:` address, larger of a finished image."""
        from fktext.images.pictures import thumbnail

        return thumbnail(sample, FINAL_SIDE if last else SIDE)
