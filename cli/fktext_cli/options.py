"""What `generate` and `image generate` are both told on the command line: how to steer."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

SAMPLE, STEER, RUN, OUT = "What to generate", "How to steer", "Where to run", "What to print"

RewardSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        "-r",
        metavar="NAME[:option=value,...][=weight]",
        help="What to steer by; repeatable.",
        rich_help_panel=STEER,
    ),
]
Particles = Annotated[int, typer.Option("--particles", "-n", min=1, help="Particles per population.", rich_help_panel=STEER)]
MethodName = Annotated[
    Literal["fk", "best-of-n", "base"],
    typer.Option(help="Steer on the way, choose at the end, or neither.", rich_help_panel=STEER),
]
Lambda = Annotated[float, typer.Option("--lambda", min=0, help="Strength of the tilt exp(lambda reward).", rich_help_panel=STEER)]
PotentialName = Annotated[
    Literal["difference", "max", "sum", "terminal"],
    typer.Option(help="How rewards on the way become weights.", rich_help_panel=STEER),
]
ResampleEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between weighings.", show_default="20 weighings in all", rich_help_panel=STEER),
]
EssThreshold = Annotated[
    float, typer.Option(min=0, help="Resample below this share of effective particles.", rich_help_panel=STEER)
]
ResamplerName = Annotated[
    Literal["multinomial", "systematic", "stratified", "residual", "ssp", "killing"],
    typer.Option(help="How offspring are drawn.", rich_help_panel=STEER),
]
