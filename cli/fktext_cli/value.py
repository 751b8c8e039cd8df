"""Fit, list, show and check learned values, which steer without asking the reward on the way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fktext.errors import UsageError
from fktext.settings import Settings
from fktext_cli import completion
from fktext_cli.common import Json, WholeForm, create_rewards, in_json, listing, print_columns
from fktext_cli.options import MOST_SAMPLES, Where, run_option, unfolded
from fktext_cli.progress import Bar

if TYPE_CHECKING:  # these import torch
    from fktext.rewards import Weighted
    from fktext.texts.model import TextModel
    from fktext.texts.values import Checked, LogZ
    from fktext.values import Card

PROMPTS, PARTICLES = 4, 8  # of log Z: so many prompts at most

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="An embedded model, a folder, an alias or a hub id.",
        autocompletion=completion.models,
    ),
]
Rewards = Annotated[
    list[str],
    typer.Option(
        "--reward",
        "-r",
        metavar="REWARD",
        help="What the value foresees: NAME or NAME:option=value; repeatable.",
        autocompletion=completion.rewards,
    ),
]
Value = Annotated[str, typer.Argument(metavar="VALUE", help="An installed value or a folder.")]


@dataclass(frozen=True)
class Texts:
    """Options of what a value is fitted to or checked on."""

    texts: Annotated[
        Path | None, typer.Option("--texts", help="Texts, .txt, .jsonl or .csv, such as steering may lead to: they help.")
    ] = None
    own: Annotated[int, typer.Option("--own", min=0, max=MOST_SAMPLES, help="Texts of the model itself, drawn first.")] = 1000
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="What the model's own texts continue.", show_default="nothing")
    ] = None
    length: Annotated[int | None, typer.Option("--length", min=2, help="Tokens per text.", show_default="the model's")] = None
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the model's own texts.", show_default="the model's")
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same value.")] = 0

    def settings(self) -> dict[str, Any]:
        """Return them as `fktext.texts.values.fit_values` takes them.

        Raises:
            UsageError: a file cannot be read.
        """
        from fktext.texts.prompts import read_prompts

        texts, prompts = (
            [each.text for each in read_prompts(path)] if path else default
            for path, default in ((self.texts, []), (self.prompts, [""]))
        )
        drawn = {"length": self.length, "temperature": self.temperature, "seed": self.seed}
        return {"texts": texts, "prompts": prompts, "own": self.own, **drawn}


def values() -> list[dict[str, Any]]:
    """List the installed values."""
    from fktext.values import card, installed

    found = [(name, card(folder)) for name, folder in installed().items()]
    return [{"name": name, "model": about.model, "reward": about.reward, "texts": about.own + about.given} for name, about in found]


app = listing(
    "Fit, list, show and check learned values, which steer without asking the reward on the way.",
    """List the values that are installed; `fktext generate` takes the one that belongs to its model and rewards.

    Example: fktext value list --format json
    """,
    values,
    print_columns,
)


@app.command()
def show(value: Value, form: WholeForm = "text", as_json: Json = False) -> None:
    """Show what a value belongs to, what it was fitted on, and how good it was.

    Example: fktext value show tiny-mdlm-toxic
    """
    from fktext.values import card

    about = card(_folder(value))
    if as_json or form != "text":
        print(in_json(about.model_dump(mode="json"), form), end="")
        return
    facts = {
        "model": f"{about.model}, digest {about.model_digest}",
        "reward": f"{about.reward}, digest {about.reward_digest or 'none'}",
        "texts": f"{about.own} of the model, {about.given} given, {about.length} tokens each",
        "held-out loss": f"{about.loss:.4f}, of the best constant {about.chance:.4f} ({about.link} link)",
        "fitted in": f"{about.seconds:.0f} s by fktext {about.version}",
    }
    for name, fact in facts.items():
        print(f"{name + ':':15}{fact}")
    _print_levels(about)


@app.command()
@unfolded()
def fit(
    *,
    reward: Rewards,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; of several rewards, one in it for each.")],
    model: Model = "tiny-mdlm",
    data: Texts,
    copies: Annotated[int, typer.Option("--copies", min=1, max=100, help="How often each text is put under noise anew.")] = 2,
    where: Where,
    batch_size: Annotated[int, run_option(min=1, help="Texts judged at once.")] = 64,
) -> None:
    """Fit a value to a model and a reward: texts are drawn, judged once and put under noise again at random.

    Steer by it with `--look-ahead value:FOLDER`. It belongs to these weights of model and reward alone.

    Example: fktext value fit --reward sentiment --own 500 --out sentiment-value
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {str(out)!r} exists; name a new folder")
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.values import save

        loaded, terms = _ready(model, reward, where, batch_size)
        fitted = _fitted(loaded, terms, {**data.settings(), "copies": copies})
        folders = [out] if len(terms) == 1 else [out / str(number) for number in range(1, len(terms) + 1)]
        for folder, (head, about) in zip(folders, fitted, strict=True):
            save(folder, head, about)
    for folder, (_, about) in zip(folders, fitted, strict=True):
        print(f"{folder}: {about.reward}, held-out loss {about.loss:.4f}, of the best constant {about.chance:.4f}")
        _print_levels(about)


@app.command()
@unfolded()
def check(
    value: Value,
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", show_default="the value's")] = None,
    reward: Annotated[str | None, typer.Option("--reward", "-r", show_default="the value's")] = None,
    data: Texts,
    populations: Annotated[
        int, typer.Option(min=0, max=MOST_SAMPLES, help="Estimates of log Z for each of the first prompts; 0 makes none.")
    ] = 8,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw how good it is: a .png, .svg or .pdf.")] = None,
    where: Where,
    batch_size: Annotated[int, run_option(min=1, help="Texts judged at once.")] = 64,
    form: WholeForm = "text",
    as_json: Json = False,
) -> None:
    """Compare a value with the reward on new texts; exit code 1 says that it is no better than a constant.

    A value fails where texts are unlike those it was fitted to: other prompts, another temperature. This shows it. Then log Z
    of the first prompts is estimated twice with 8 particles: by the value, and by the reward of 4 guesses per weighing.

    Example: fktext value check tiny-mdlm-toxic --own 200 --populations 4
    """
    from fktext.values import card, heads

    stdout, folder = sys.stdout, _folder(value)
    _check_plot(plot)
    with contextlib.redirect_stdout(sys.stderr):
        about = card(folder)
        loaded, terms = _ready(model or about.model, [reward or about.reward], where, batch_size)
        from fktext.texts.values import Checked, check_value

        asked = data.settings()
        with Bar("checking", lines=True) as bar:
            for step in check_value(loaded, terms[0], heads(loaded, terms, [folder])[0], **asked):
                if isinstance(step, Checked):
                    found = step
                else:
                    bar.show(step.done, step.total)
        compared = _compared(loaded, terms[0], folder, populations, asked) if populations else []
        if plot:
            _draw(found, plot)
    if as_json or form != "text":
        shown = {"levels": [level.model_dump() for level in found.levels], "loss": found.loss, "chance": found.chance}
        shown |= {"passed": found.passed, "log_z": [asdict(each) for each in compared]}
        print(in_json(shown, form), end="", file=stdout)
    else:
        _print_levels(found)
        print(f"loss {found.loss:.4f}, of the best constant {found.chance:.4f}: {'better' if found.passed else 'NOT better'}")
        _print_log_z(compared)
    if not found.passed:
        raise typer.Exit(1)


def _compared(model: TextModel, term: Weighted, folder: Path, populations: int, asked: dict[str, Any]) -> list[LogZ]:
    """Estimate log Z of the first prompts by the value and by predictions, and show how far it is."""
    from fktext.texts.values import LogZ, compare_log_z

    drawn = {name: asked[name] for name in ("length", "temperature", "seed")}
    settings = Settings(particles=PARTICLES, samples=populations, x0_samples=4, **drawn)
    found: list[LogZ] = []
    with Bar("log Z", lines=True) as bar:
        for step in compare_log_z(model, term, folder, asked["prompts"][:PROMPTS], settings):
            if isinstance(step, LogZ):
                found.append(step)
            else:
                bar.show(step.done, step.total)
    return sorted(found, key=lambda each: asked["prompts"].index(each.prompt))


def _check_plot(path: Path | None) -> None:
    """Refuse a plot that cannot be drawn, before anything is computed."""
    if path is None:
        return
    from fktext_evals.reporting.plots import Suffix, check_matplotlib

    known = [f".{suffix}" for suffix in get_args(Suffix)]
    if path.suffix not in known:
        raise UsageError(f"--plot {str(path)!r} must end with one of {', '.join(known)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {str(path)!r}: there is no folder {str(path.parent)!r}")
    check_matplotlib()


def _draw(found: Checked, path: Path) -> None:
    """Draw calibration and correlation by share of unknown positions."""
    from fktext_evals.reporting.figures import Figure, Line, Point
    from fktext_evals.reporting.plots import sheet
    from fktext_evals.statistics import Interval

    levels = [level for level in found.levels if level.texts]

    def line(name: str, series: int, column: str) -> Line:
        points = ((50 * (level.low + level.high), float(getattr(level, column))) for level in levels)
        return Line(name, series, tuple(Point(Interval(x, nan, nan), Interval(y, nan, nan)) for x, y in points))

    unknown, told = "unknown positions, %", (line("exp(value)", 1, "said"), line("exp(reward)", 2, "was"))
    calibration = Figure("calibration", "Calibration by noise level", "", unknown, "mean", told)
    correlation = (line("value and final reward", 1, "correlation"),)
    sheet([calibration, Figure("correlation", "Correlation by noise level", "", unknown, "correlation", correlation)], [path])


def _print_log_z(compared: Sequence[LogZ]) -> None:
    """Print estimates of log Z, by prompt and look-ahead."""
    if compared:
        print(f"\nlog Z with {PARTICLES} particles and lambda {Settings.lam:g}, by the same noise")
    print_columns(
        [
            {
                "prompt": each.prompt[:30] or "none",
                "look-ahead": each.look_ahead,
                "log Z": _number(each.log_z),
                "mean": _number(each.mean),
                "variance": _number(each.variance),
                "dead": each.dead,
                "reward calls": f"{each.reward_requests:.0f}",
                "seconds": f"{each.seconds:.2f}",
            }
            for each in compared
        ]
    )


def _number(value: float | None) -> str:
    """Return a number as the table has it."""
    return "none" if value is None else f"{value:.2f}"


def _ready(model: str, rewards: list[str], where: Where, batch_size: int) -> tuple[TextModel, list[Weighted]]:
    """Load the model and the rewards."""
    from fktext.models import load

    device = where.ready()
    return load(model, device=device, offline=where.offline), create_rewards(rewards, device, where.offline, batch_size)


def _fitted(model: TextModel, terms: list[Weighted], settings: dict[str, Any]) -> list[tuple[Any, Card]]:
    """Fit, and show how far it is."""
    from fktext.texts.values import Status, fit_values

    found, doing = [], ""
    with Bar("fitting", lines=True) as bar:
        for step in fit_values(model, terms, **settings):
            if isinstance(step, Status):
                if step.doing != doing:
                    with bar.away():
                        print(step.doing, file=sys.stderr)
                doing = step.doing
                bar.show(step.done, step.total)
            else:
                found.append(step)
    return found


def _folder(value: str) -> Path:
    """Find an installed value, or a folder.

    Raises:
        UsageError: it is neither.
    """
    from fktext.errors import unknown_name
    from fktext.values import installed

    known = installed()
    if value in known:
        return known[value]
    if not (folder := Path(value).expanduser()).is_dir():
        raise unknown_name("value", value, [*known, "a folder"])
    return folder


def _print_levels(about: Any) -> None:
    """Print how good a value is, by how much of a text is unknown."""
    print_columns(
        [
            {
                "unknown": f"{level.low:.0%} to {level.high:.0%}",
                "texts": level.texts,
                "correlation": f"{level.correlation:.2f}",
                "mean exp(value)": f"{level.said:.4f}",
                "mean exp(reward)": f"{level.was:.4f}",
            }
            for level in about.levels
        ]
    )
