"""Run the command line: find the command, and say in one line what went wrong.

Exit codes: 0 done, 1 it failed, 2 the request is wrong, 130 interrupted. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

import fktext
from fktext.errors import FktextError, RewardError, shorten
from fktext_cli.streams import protect, silence, visible

# Each command is the `app` of the file with its name, imported when it is asked for. Its own help begins with the same words.
COMMANDS = {
    "generate": "Generate texts that score high.",
    "watch": "Watch the particles of a run again, from the log that --trace RUN.jsonl wrote.",
    "play": "Watch particles live in a page, stop them, and reach in by hand.",
    "score": "Score texts that exist, to look at a reward before steering by it.",
    "value": "Fit, list, show and check learned values, which steer without asking the reward on the way.",
    "image": "Steer diffusers pipelines of images.",
    "eval": "Compare steering methods on suites of prompts, judged, with intervals.",
    "rewards": "List the rewards and their options, those of images marked, or `show` one of them.",
    "models": "List, describe, check and fetch models.",
    "plugins": "List the installed plugins, the broken ones too.",
    "plugin": "Start a package with a reward of your own.",
    "selftest": "Check on this machine that the sampler aims at the exact law.",
    "bench": "Time this sampler against two dense ones.",
}

# What other programs call an option: ours, and what to know of it.
ELSEWHERE = {
    "--max-new-tokens": ("--length", "it counts the tokens of the whole text, prompt included"),
    "--max-length": ("--length", "it counts the tokens of the whole text, prompt included"),
    "--top-k": ("--top-p", "there is no top-k"),
    "--num-return-sequences": ("--samples", "texts per prompt, each the best of its own particles"),
    "--num-samples": ("--samples", "texts per prompt, each the best of its own particles"),
    "--lam": ("--lambda", ""),
    "--num-inference-steps": ("--steps", ""),
}


class Commands(TyperGroup):
    """Import a command when it is asked for, and turn every failure into a line on stderr and an exit code.

    FKTEXT_DEBUG=1 shows the traceback.
    """

    def __init__(self, **options: Any) -> None:
        named = {name: TyperCommand(name, help=about) for name, about in COMMANDS.items()}
        super().__init__(**{**options, "commands": named})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Put the command itself in the place of its name."""
        if (name := args[0]) in COMMANDS:
            self.commands[name] = typer.main.get_command(importlib.import_module(f"fktext_cli.{name}").app)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        debug = os.environ.get("FKTEXT_DEBUG", "0") not in ("", "0")
        try:
            status = super().main(*args, **{**options, "standalone_mode": False})
            sys.stdout.flush()
        except KeyboardInterrupt:
            status = 130
        except BrokenPipeError:  # the reader of the pipe has all it wanted
            silence(sys.stdout)
            status = 1
        except Exception as error:
            if debug:
                raise
            message, status = _explain(error)
            if isinstance(error, OSError):
                silence(sys.stdout)
            print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
        sys.exit(status if isinstance(status, int) else 0)


def _type_of(option: TyperOption, ctx: Any) -> str | None:
    """Return what the help says an option takes: nothing for a flag, and choices so that they wrap between words."""
    if option.is_flag:
        return None
    if option.metavar is not None:
        return option.metavar.replace("|", " | ")
    kind = str(option.display_type(ctx) or "").strip("<>").removesuffix(" range")
    return {"str": "text"}.get(kind, kind).replace("|", " | ")


# Typer prints Python's types; an argument is told by its name
setattr(TyperOption, "display_type_rich", _type_of)  # noqa: B010
setattr(TyperArgument, "display_type_rich", lambda argument, ctx: None)  # noqa: B010


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to say, and the exit code."""
    if isinstance(error, FktextError):
        others = isinstance(error, RewardError) and error.__cause__ is not None and not _out_of_memory(error)
        return f"{error}{' (FKTEXT_DEBUG=1 shows the traceback)' * others}", error.exit_code
    if hasattr(error, "format_message"):  # from the argument parser, whatever this Typer calls it
        wrong: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()  # pydantic's, where a value had the wrong type
        message = error.format_message().replace("Value error, ", "").removesuffix(".")
        if instead := _instead(error):
            return instead, 2
        came = repr(wrong[0]["input"]) if wrong else ""
        return (f"{message}, got {shorten(came, 80)}" if came not in message else message), 2
    if isinstance(error, OSError):
        if error.errno == errno.ENAMETOOLONG:
            return f"a name is too long for this file system: {shorten(str(error.filename), 80)}", 2
        return str(error), 1
    if _out_of_memory(error):
        return "memory does not hold this: give fewer particles, a smaller batch size or a shorter length", 1
    return f"{type(error).__name__}: {error} (FKTEXT_DEBUG=1 shows where)", 1


def _instead(error: Any) -> str:
    """Say which option of the command is meant by one that other programs have; "" where none is."""
    name = getattr(error, "option_name", "")
    ours, about = ELSEWHERE.get(name, ("", ""))
    known = [each for parameter in error.ctx.command.params for each in parameter.opts] if ours and error.ctx else []
    return f"No such option: {name}; use {ours}{f' ({about})' * bool(about)}" if ours in known else ""


def _out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out, that of torch too if it has been loaded."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from fktext.batches import out_of_memory

    return out_of_memory(error)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fktext {fktext.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="fktext",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Steer text-diffusion models with rewards, without training or gradients."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    protect()
    try:
        app(prog_name="fktext")
    except KeyboardInterrupt:  # before a command is known
        sys.exit(130)
