"""Make the options that several commands have: those of `fktext.settings`, and those of where to run."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, cast, get_type_hints

import typer

from fktext.settings import BOUNDS, CANDIDATES, CHOICES, PARTS, WEIGHINGS, Settings
from fktext_cli import completion
from fktext_cli.output import Return
from fktext_cli.progress import stage

SAMPLE, STEER, RUN, OUT = "What to generate", "How to steer", "Where to run", "What to print"  # panels of the help
sample_option, steer_option, run_option, out_option = (
    functools.partial(typer.Option, rich_help_panel=panel) for panel in (SAMPLE, STEER, RUN, OUT)
)
MOST_BATCH, MOST_SAMPLES, MOST_STEPS = (int(BOUNDS[name][1]) for name in ("particles", "samples", "steps"))


class Words(NamedTuple):
    """The words of a setting: its panel in the help, its line there, the name of its default where that is None, its flags."""

    panel: str
    help: str
    unset: str = ""
    flags: tuple[str, ...] = ()


SETTINGS = {
    "samples": Words(SAMPLE, "Populations per prompt; each gives one text unless --return says otherwise."),
    "length": Words(SAMPLE, "Tokens per text, prompt included.", "the model's"),
    "stride": Words(SAMPLE, "Tokens by which the window moves in a text longer than the model takes.", "half the model's length"),
    "steps": Words(SAMPLE, "Reverse diffusion steps.", "the model's"),
    "temperature": Words(SAMPLE, "Sampling temperature.", "the model's"),
    "top_p": Words(SAMPLE, "Nucleus sampling: the probability mass that tokens are drawn from.", "the model's"),
    "kernel": Words(SAMPLE, "Reverse process, such as ancestral or remdm-cap.", "the model's"),
    "seed": Words(SAMPLE, "Random seed; the same seed gives the same results."),
    "particles": Words(STEER, "Particles per population.", flags=("--particles", "-n")),
    "method": Words(
        STEER, "fk and particle-gibbs steer, best-of-n chooses at the end, base does neither; svdd and beam are baselines."
    ),
    "candidates": Words(STEER, "Particles that continue one parent.", f"1, or {CANDIDATES} of svdd and beam"),
    "sweeps": Words(STEER, "Sweeps of particle Gibbs."),
    "proposal": Words(
        STEER,
        "Draw tokens from the model, or guided by the gradient of a learned value (d-cbg: uncorrected) or, straight-through, of "
        "the rewards.",
    ),
    "guidance": Words(STEER, "Strength of the guidance."),
    "lam": Words(STEER, "Strength of the tilt exp(lambda reward).", flags=("--lambda",)),
    "potential": Words(STEER, "How intermediate rewards become weights; plugins may bring more."),
    "resample_every": Words(STEER, "Steps from one weighing to the next.", f"{WEIGHINGS} weighings in all"),
    "schedule": Words(STEER, "When to weigh: a plugin's schedule.", "by --resample-every"),
    "ess_threshold": Words(
        STEER, "Resample when the effective sample size falls below this share of the particles; above 1 always."
    ),
    "temper": Words(STEER, "Temper: the share of the particles that a weighing leaves effective; below the threshold.", "no"),
    "resampler": Words(STEER, "Resampling scheme; plugins may bring more."),
    "look_ahead": Words(
        STEER,
        "How unfinished texts are judged: by predictions, value, value:DIR, value:fit or none.",
        "value where installed, else predictions",
    ),
    "x0_samples": Words(STEER, "Predictions of the finished text per particle and weighing."),
    "x0_average": Words(STEER, "Average over these predictions: of exp(lambda reward), or of exp(reward)."),
    "pseudo_count": Words(STEER, "How much a prediction of reward -inf is doubted, counted in predictions; above 0."),
}


def unfolded(*names: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameters of a command that are dataclasses by an option for each of their fields.

    Args:
        names: the fields of `Settings` that get an option; all, if none is named.
        defaults: those of `Settings` that are not the library's.

    Returns:
        A decorator. The command's other parameters stay as they are, but all are passed by name.
    """

    def unfold(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        made: dict[str, tuple[Any, list[str]]] = {}
        hints = get_type_hints(command, include_extras=True)
        for parameter in inspect.signature(command).parameters.values():
            hint = hints[parameter.name]
            if is_dataclass(hint):
                options = _settings(names or tuple(SETTINGS), defaults) if hint is Settings else _fields(hint)
                made[parameter.name] = hint, [option.name for option in options]
                parameters += options
            else:
                parameters.append(_parameter(parameter.name, annotation=hint, default=parameter.default))

        def run(**values: Any) -> None:
            from fktext.plugins.parts import with_parts

            for name, (kind, inside) in made.items():
                given = {each: values.pop(each) for each in inside}
                with contextlib.redirect_stdout(sys.stderr):  # plugins, which bring parts, may print
                    values[name] = Settings(**with_parts(defaults | given)) if kind is Settings else kind(**given)
            command(**values)

        functools.update_wrapper(run, command)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010  what Typer reads
        return run

    return unfold


_parameter = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)


def _fields(kind: Any) -> list[inspect.Parameter]:
    """Make a parameter for each field of a dataclass whose annotations are options."""
    hints = get_type_hints(kind, include_extras=True)
    return [_parameter(item.name, annotation=hints[item.name], default=item.default) for item in fields(kind)]


def _settings(names: tuple[str, ...], defaults: dict[str, Any]) -> list[inspect.Parameter]:
    """Make a parameter for each of these settings, with the library's bounds, choices and defaults."""
    hints, literal = get_type_hints(Settings), cast(Any, Literal)
    library = {item.name: item.default for item in fields(Settings)}
    found = []
    for name in sorted(names, key=list(SETTINGS).index):
        words, default = SETTINGS[name], defaults.get(name, library[name])
        least, most = BOUNDS.get(name, (-math.inf, math.inf))
        option = typer.Option(
            *words.flags,
            metavar="|".join(CHOICES[name]) if name in PARTS and name in CHOICES else None,
            min=_round(least),
            max=_round(most),
            help=words.help,
            autocompletion=completion.kernels if name == "kernel" else None,
            show_default=words.unset if default is None else True,
            rich_help_panel=words.panel,
        )
        hint = (str if default else str | None) if name in PARTS else literal[CHOICES[name]] if name in CHOICES else hints[name]
        found.append(_parameter(name, annotation=Annotated[hint, option], default=default))
    return found


def _round(bound: float) -> float | None:
    """Return a bound as the help shows it; None for one like 1e-30, which the library's own error tells."""
    return bound if abs(bound) <= 1e6 and bound == round(bound) else None


def resolve_device(name: str) -> str:
    """Return a device that can be used here; "auto" is cuda where there is one, else cpu.

    Raises:
        UsageError: torch does not know it, or cannot use it here.
    """
    from fktext.batches import best_device, usable_device

    if name == "auto":
        return best_device()
    usable_device(name)
    return name


def parse_batch_size(value: str) -> int | None:
    """Return the number, or None for auto."""
    if value == "auto":
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 20 or not 1 <= int(value) <= MOST_BATCH:
        raise typer.BadParameter(f"{value!r} is neither auto nor a number from 1 to {MOST_BATCH}")
    return int(value)


RewardSpecs = Annotated[
    list[str] | None,
    steer_option(
        "--reward",
        "-r",
        metavar="REWARD",
        help="What to steer by: NAME, NAME:option=value or NAME=weight; repeatable.",
        autocompletion=completion.rewards,
    ),
]
Model = Annotated[
    str,
    sample_option("--model", "-m", help="An embedded model, a folder, an alias or a hub id.", autocompletion=completion.models),
]
Device = Annotated[str, run_option(help="Device: auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], run_option(help="Type of the model's weights.")]
Compiled = Annotated[bool, run_option("--compile", help="Let torch compile the network: minutes first, faster then.")]
BatchSize = Annotated[
    int | None,
    run_option(
        metavar="auto|N",
        parser=parse_batch_size,
        help="Particles computed at once; changes no result. auto: 64 on a CPU, else 1024, halved until memory holds them.",
        show_default="auto",
    ),
]
Offline = Annotated[bool, run_option("--offline", envvar="HF_HUB_OFFLINE", help="Use no network.")]
Which = Annotated[Return, out_option("--return", help="Of each population: the best, one drawn by weight, or all.")]


@dataclass(frozen=True)
class Where:
    """Options of where a command runs."""

    device: Device = "auto"
    threads: Annotated[
        int | None, run_option(min=1, help="CPU threads; they change no text.", show_default="a thread per free core")
    ] = None
    offline: Offline = False
    verbose: Annotated[
        bool, run_option("--verbose", "-v", help="Also print the number of threads and, on a terminal, what the run cost.")
    ] = False

    def ready(self) -> str:
        """Settle network and threads before anything is loaded, and return the device to use.

        Raises:
            UsageError: more threads are wanted than there are cores, or the device cannot be used.
        """
        from fktext.threads import settle

        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # for the libraries that rewards use, which read it when they are imported
        with stage("loading torch"):
            why = settle(self.threads).why
            if self.verbose:
                import torch

                print(f"threads: {torch.get_num_threads()} ({why})", file=sys.stderr)
            return resolve_device(self.device)
