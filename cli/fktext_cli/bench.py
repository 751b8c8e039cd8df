"""`fktext bench`: what lazy denoising saves on the user's own model and machine."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Literal

import typer

from fktext.errors import UsageError
from fktext_cli.common import resolve_device
from fktext_cli.options import (
    MOST_GUESSES,
    MOST_PARTICLES,
    MOST_SAMPLES,
    MOST_STEPS,
    MOST_TOKENS,
    Threads,
    Verbose,
    use_threads,
)

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A masked model: an embedded one, a folder, an alias or a hub id.")
    ] = ("tiny-mdlm"),
    particles: Annotated[int, typer.Option("--particles", "-n", min=1, max=MOST_PARTICLES, help="Particles per population.")] = 8,
    prompts: Annotated[int, typer.Option(min=1, max=MOST_SAMPLES, help="Populations at once.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, max=MOST_STEPS, help="Reverse diffusion steps.", show_default="the model's")
    ] = None,
    length: Annotated[int | None, typer.Option(min=2, max=MOST_TOKENS, help="Tokens per text.", show_default="the model's")] = None,
    x0_samples: Annotated[int, typer.Option(min=1, max=MOST_GUESSES, help="Finished texts guessed per weighing.")] = 4,
    dense_steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Steps of the dense samplers to time.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the model's network.")] = "float32",
    offline: Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Touch no network.")] = False,
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Time this sampler against two dense ones.

    The reward costs nothing, so samplers are what is timed.
    """
    stdout = sys.stdout
    use_threads(threads, verbose)
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.models import load
        from fktext.settings import Settings
        from fktext.smc.schedules import Every
        from fktext.smc.steer import Plan
        from fktext.testing.speed import compare

        loaded = load(model, device=resolve_device(device), dtype=dtype, offline=offline)
        if "ancestral" not in loaded.kernels:
            raise UsageError(
                f"model {model!r} has no ancestral kernel to compare with: its kernels are {', '.join(loaded.kernels)}"
            )
        settings = loaded.resolve(Settings(steps=steps, length=length, particles=particles))
        plan = Plan(particles, Every(settings.resample_every), lam=10.0, x0_samples=x0_samples)
        if settings.length > loaded.denoiser.max_length:
            raise UsageError(
                f"length {settings.length} is more than the {loaded.denoiser.max_length} tokens that model {model!r} takes"
            )
        weighings = len(plan.schedule.weighings(settings.steps))
        speed = compare(
            loaded.denoiser,
            plan,
            populations=prompts,
            steps=settings.steps,
            length=settings.length,
            dense_steps=min(dense_steps, settings.steps),
        )
    print(
        f"{model}: {prompts} x {particles} particles, L={settings.length}, T={settings.steps}, {weighings} weighings, "
        f"{x0_samples} x0 draws, {dtype} on {loaded.denoiser.device}",
        *speed.lines(),
        sep="\n",
        file=stdout,
    )
