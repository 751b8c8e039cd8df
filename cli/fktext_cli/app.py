"""The application: its commands, its exit codes, and how it says that something went wrong.

Exit codes: 0 done, 1 it failed, 2 the request is wrong, 130 interrupted. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import fktext
from fktext.errors import FktextError
from fktext_cli import bench, eval, generate, image, models, plugin, plugins, rewards, score, selftest
from fktext_cli.output import silence
from fktext_cli.streams import protect, visible


class Commands(TyperGroup):
    """A group that turns every failure into one line on stderr and an exit code; FKTEXT_DEBUG=1 shows the traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        debug = os.environ.get("FKTEXT_DEBUG", "0") not in ("", "0")
        try:
            status = super().main(*args, **{**options, "standalone_mode": False})
            sys.stdout.flush()
        except KeyboardInterrupt:
            status = 130
        except BrokenPipeError:  # the reader of a pipe has what it wanted
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


def _explain(error: Exception) -> tuple[str, int]:
    """What to say, and the exit code."""
    if isinstance(error, FktextError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # what the argument parser raises, by whichever name this Typer has for it
        wrong: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()  # pydantic's, where a value had the wrong type
        message = error.format_message().replace("Value error, ", "").removesuffix(".")
        came = repr(wrong[0]["input"]) if wrong else ""
        return (f"{message}, got {_short(came)}" if came not in message else message), 2
    if isinstance(error, OSError):
        too_long = error.errno == errno.ENAMETOOLONG
        return (f"a name is too long for this file system: {_short(str(error.filename))}" if too_long else str(error)), 1 + too_long
    if _out_of_memory(error):
        return "memory does not hold this: give fewer particles, a smaller batch size or a shorter length", 1
    return f"{type(error).__name__}: {error} (FKTEXT_DEBUG=1 shows where)", 1


def _out_of_memory(error: Exception) -> bool:
    """Whether torch, if anything has loaded it, ran out of memory."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from fktext.batches import out_of_memory

    return out_of_memory(error)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


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


app.command("generate")(generate.generate)
app.add_typer(image.app, name="image")
app.command("score")(score.score)
app.add_typer(rewards.app, name="rewards")
app.add_typer(models.app, name="models")
app.add_typer(plugins.app, name="plugins")
app.command("selftest")(selftest.selftest)
app.command("bench")(bench.bench)
app.add_typer(eval.app, name="eval")
app.add_typer(plugin.app, name="plugin")


def main() -> None:
    """Run the command line."""
    protect()
    try:
        app(prog_name="fktext")
    except KeyboardInterrupt:  # before a command is known
        sys.exit(130)
