"""`fktext selftest`: check that the sampler works here."""

from __future__ import annotations

from typing import Annotated

import typer

from fktext_cli.common import Form, report
from fktext_cli.options import MOST_SAMPLES, Device, resolve_device

app = typer.Typer(add_completion=False)


@app.command()
def selftest(
    device: Device = "auto",
    populations: Annotated[
        int, typer.Option(min=1000, max=MOST_SAMPLES, help="Independent populations per check; more find smaller errors.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    form: Form = "text",
) -> None:
    """Check on this machine that the sampler aims at the exact law.

    For every potential and resampler, many small populations of a model whose texts can all be listed are compared with the law;
    |z| is the largest difference in standard errors. The last checks are wrong on purpose and must be caught.
    Exits with code 1 if a check fails.
    """
    from fktext.testing.selftest import run

    device = resolve_device(device)
    report(run(device=device, seed=seed, populations=populations), form, (42, 32, 18), device)
