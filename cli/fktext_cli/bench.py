"""`fktext bench`: measure what lazy denoising saves on your own model and machine."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fktext.errors import UsageError
from fktext.settings import Settings
from fktext_cli import completion
from fktext_cli.common import create_rewards
from fktext_cli.options import MOST_SAMPLES, MOST_STEPS, Dtype, RewardSpecs, Where, out_option, sample_option, unfolded

if TYPE_CHECKING:  # these import torch
    from fktext.settings import TextRun
    from fktext.texts.model import TextModel

app = typer.Typer(add_completion=False)


@app.command()
@unfolded("length", "steps", "particles", "x0_samples", particles=8)
def bench(
    model: Annotated[
        str,
        sample_option(
            "--model",
            "-m",
            help="A masked model: an embedded one, a folder, an alias or a hub id.",
            autocompletion=completion.models,
        ),
    ] = "tiny-mdlm",
    prompts: Annotated[int, sample_option(min=1, max=MOST_SAMPLES, help="Populations at once.")] = 1,
    dense_steps: Annotated[int, sample_option(min=1, max=MOST_STEPS, help="Steps of the dense samplers to time.")] = 5,
    costs: Annotated[
        bool, out_option("--costs", help="Instead print as JSON what a row, a head position and a judged text cost.")
    ] = False,
    rewards: RewardSpecs = None,
    *,
    asked: Settings,
    where: Where,
    dtype: Dtype = "float32",
) -> None:
    """Time this sampler against two dense ones.

    The reward costs nothing, so only the samplers are timed. With --costs the rewards named are, too.
    """
    if rewards and not costs:
        raise UsageError("--reward is for --costs: the samplers are compared with a reward that costs nothing")
    device, stdout = where.ready(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.models import load

        loaded = load(model, device=device, dtype=dtype, offline=where.offline)
        if "ancestral" not in loaded.kernels:
            raise UsageError(
                f"model {model!r} has no ancestral kernel to compare with: its kernels are {', '.join(loaded.kernels)}"
            )
        settings = loaded.resolve(asked)
        if settings.length > loaded.denoiser.max_length:
            raise UsageError(
                f"length {settings.length} is more than the {loaded.denoiser.max_length} tokens that model {model!r} takes"
            )
        if costs:
            terms = create_rewards(rewards or [], device, where.offline, None)
            about = {"model": model, "device": str(loaded.denoiser.device), "dtype": dtype}
            said = [json.dumps(about | _costs(loaded, settings, max(2, prompts * settings.particles), terms), indent=1)]
        else:
            said = _compared(loaded, settings, prompts, dense_steps)
            said[0] = f"{model}: {said[0]}, {dtype} on {loaded.denoiser.device}"
    print(*said, sep="\n", file=stdout)


def _compared(model: TextModel, settings: TextRun, prompts: int, dense_steps: int) -> list[str]:
    """Compare the samplers, and spell it: first the setting."""
    from fktext.smc.lookahead import Predictions
    from fktext.smc.schedules import Every
    from fktext.smc.steer import Plan
    from fktext.testing.speed import compare

    particles, length, steps = settings.particles, settings.length, settings.steps
    if model.num_steps(model.template("", length), settings) != steps:
        raise UsageError(f"model {model.name!r} writes {length} tokens in several blocks, and the samplers compared here write one")
    plan = Plan(particles, Every(settings.resample_every), lam=settings.lam, look_ahead=Predictions(settings.x0_samples))
    number, few = len(plan.schedule.weighings(steps)), min(dense_steps, steps)
    speed = compare(model.denoiser, plan, populations=prompts, steps=steps, length=length, dense_steps=few)
    setting = f"{prompts} x {particles} particles, L={length}, T={steps}, {number} weighings, {settings.x0_samples} x0 draws"
    return [setting, *speed.lines()]


def _costs(model: TextModel, settings: TextRun, rows: int, terms: Sequence[Any]) -> dict[str, Any]:
    """Fit what a model costs here, and rewards on texts of its own."""
    from dataclasses import replace

    import torch

    from fktext.testing.costs import measure
    from fktext.texts.generate import Population, generate

    own = replace(settings, method="base", particles=1, samples=rows if terms else 1)
    texts = [item.texts[0] for item in generate(model, (), [""], own) if isinstance(item, Population)]
    fitted = measure(model.denoiser, terms, texts, settings.length, rows).as_dict()
    return {"threads": torch.get_num_threads(), "steps": settings.steps, **fitted}
