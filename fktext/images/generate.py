"""From prompts to weighted populations of images: the one call behind `fktext image generate`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fktext.batches import out_of_memory
from fktext.errors import FktextError, PopulationError, UsageError
from fktext.images.process import DiffusersProcess, Image
from fktext.rewards import Scorer, Weighted
from fktext.settings import Run, Settings
from fktext.smc.noise import Noise, population_key
from fktext.smc.steer import Step, collect, steer_steps
from fktext.text import Text
from fktext.texts.generate import Population, Progress, population_of

STEPS = 50
_TEXT_ONLY = ("length", "stride", "kernel", "temperature", "top_p")


@dataclass(frozen=True)
class ImagePopulation:
    """The weighted particles of one prompt's one repetition, at the end.

    Attributes:
        images: N images.
        weighted: their values, weights and lineage, as of texts; its texts are names, "particle-3".
    """

    images: list[Image]
    weighted: Population


def resolve(asked: Settings) -> Run:
    """What is asked for, with the steps, the cadence and the particles named.

    Raises:
        UsageError: a setting that only texts have, or several predictions of x0.
    """
    for name in _TEXT_ONLY:
        if getattr(asked, name) is not None:
            raise UsageError(f"{name} is a setting of texts, got {getattr(asked, name)}")
    if asked.x0_samples != 1:
        raise UsageError(f"an image pipeline has one guess of x0 per particle: x0_samples must be 1, got {asked.x0_samples}")
    return Run.of(asked, asked.steps or STEPS)


def call_options(pipeline: Any, **given: Any) -> dict[str, Any]:
    """Those options of a pipeline's call that are not None; eta is 1 where its scheduler takes one.

    Raises:
        UsageError: the scheduler takes no eta, or one that is no share of DDPM's noise.
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
    **options: Any,
) -> Iterator[Progress | ImagePopulation]:
    """Generate `settings.samples` weighted populations of images for each prompt.

    Args:
        pipeline: from `fktext.images.pipelines.load`, or any of diffusers.
        terms: weighted rewards of images; may be empty with method "base".
        prompts: [""] for a pipeline that takes none.
        settings: with x0_samples=1, and None for what only texts have.
        batch_size: most images computed (whole populations, at least one) and decoded at once; default 8 for a pipeline with a
            VAE, 64 for one of pixels.
        options: of the pipeline's call, see `call_options`.

    Yields:
        `Progress` after each weighing, and populations in order as their batches finish.

    Raises:
        UsageError: a setting out of range, a sampler that cannot be steered, an option the pipeline does not take.
        RewardError: a reward failed. FktextError: all particles of a population have weight zero, and the message names its prompt;
            or memory does not hold the images.
    """
    run = settings if isinstance(settings, Run) else resolve(settings)
    if not terms and run.method != "base":
        raise UsageError(f"method {run.method!r} needs a reward")
    seen: Counter[str] = Counter()
    wanted = []
    for index, prompt in enumerate(prompts):
        for sample in range(run.samples):
            key = population_key(run.seed, "image", prompt, seen[prompt] * run.samples + sample)
            wanted.append((index, sample, prompt, key))
        seen[prompt] += 1
    rows = batch_size or (8 if hasattr(pipeline, "vae") else 64)
    size, scorer, plan = run.particles, Scorer(terms), run.plan()
    weighings = len(plan.schedule.weighings(run.steps))
    done, total = 0, weighings * len(wanted)
    group = max(1, rows // size)
    for first in range(0, len(wanted), group):
        members = wanted[first : first + group]
        process = DiffusersProcess(pipeline, [prompt for _, _, prompt, _ in members], size, run.steps, batch_size=rows, **options)
        noise = Noise.of([key for *_, key in members], size)
        kept: list[Step] = []
        try:
            for step in steer_steps(process, scorer, noise, plan):
                kept = [*kept[:-1], *(replace(before, samples=()) for before in kept[-1:]), step]
                yield Progress(done + len(kept) * len(members), total)
        except PopulationError as error:
            _, sample, prompt, _ = members[error.population]
            raise FktextError(f"prompt {prompt!r}, sample {sample}: {error.message}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise FktextError(
                f"memory does not hold {len(members) * size} images at once: give fewer particles"
                f"{', a smaller batch size' * (len(members) > 1)}, a narrower dtype, or a pipeline with offload"
            ) from error
        finally:
            process.close()
        done += weighings * len(members)
        result = collect(iter(kept))
        names = [Text(f"particle-{particle}") for particle in range(size)]
        named = replace(result, samples=names * len(members))
        for place, who in enumerate(members):
            images = list(result.samples[place * size : (place + 1) * size])
            yield ImagePopulation(images, population_of(named, place, len(members), scorer.names, who))
