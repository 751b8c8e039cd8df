"""What several commands are told: how to steer, with how many threads, and how much of anything is too much."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

SAMPLE, STEER, RUN, OUT = "What to generate", "How to steer", "Where to run", "What to print"

# More than anybody has a use for, and little enough to be refused or begun at once, not after minutes of making lists. The noise
# counts particles, steps and positions in 32 bits.
MOST_PARTICLES = MOST_BATCH = 1_000_000
MOST_SAMPLES = MOST_TOKENS = MOST_STEPS = 100_000
MOST_GUESSES = 1_000
MOST_PIXELS = 16_384
MOST_PSEUDO_COUNT = 1_000.0
MOST_SCALE = 1_000.0  # infinity is not JSON, which rows are

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
Particles = Annotated[
    int, typer.Option("--particles", "-n", min=1, max=MOST_PARTICLES, help="Particles per population.", rich_help_panel=STEER)
]
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
    typer.Option(min=1, max=MOST_STEPS, help="Steps between weighings.", show_default="20 weighings in all", rich_help_panel=STEER),
]
EssThreshold = Annotated[
    float,
    typer.Option(
        min=0, max=MOST_SCALE, help="Resample below this share of effective particles; above 1 always.", rich_help_panel=STEER
    ),
]
PseudoCount = Annotated[
    float,
    typer.Option(
        max=MOST_PSEUDO_COUNT,
        help="How much to doubt guesses with a reward of -inf: as much as so many more guesses without. Above 0.",
        rich_help_panel=STEER,
    ),
]
ResamplerName = Annotated[
    Literal["multinomial", "systematic", "stratified", "residual", "ssp", "killing"],
    typer.Option(help="How offspring are drawn.", rich_help_panel=STEER),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; change no text.", show_default="a thread per free core", rich_help_panel=RUN),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on stderr how many threads there are, and why.", rich_help_panel=RUN)
]


def use_threads(wanted: int | None, verbose: bool) -> None:
    """Settle how many threads torch uses, and say it where that is asked for.

    Raises:
        UsageError: more threads are wanted than there are cores.
    """
    from fktext.threads import settle

    why = settle(wanted).why
    if verbose:
        import torch

        print(f"threads: {torch.get_num_threads()} ({why})", file=sys.stderr)
