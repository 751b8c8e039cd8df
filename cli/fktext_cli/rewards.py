"""`fktext rewards`: list what you can steer and judge by."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fktext.errors import FktextError
from fktext_cli import completion
from fktext_cli.common import Json, Rows, WholeForm, in_json, listing, load_registry, print_wrapped
from fktext_cli.streams import visible

if TYPE_CHECKING:  # imported when a command runs, so that --help is fast
    from fktext.plugins.registry import Option, RewardEntry


def rewards() -> list[dict[str, Any]]:
    """Return a row for each reward."""
    return [_describe(name, entry) for name, entry in load_registry().rewards.items()]


def _print_all(rows: Rows) -> None:
    from fktext.plugins.registry import WINDOW

    for row in rows:
        _print_reward(row)
    print()
    common = ", ".join(f"{option.name}=<{option.expects}>" for option in WINDOW.values())
    print_wrapped(f"Every reward of texts also takes {common}")
    print("`fktext rewards show NAME` says more about one")


app = listing(
    "List the rewards and their options, those of images marked, or `show` one of them.",
    """List the rewards and their options, those of images marked.

    Example: fktext rewards list --format json
    """,
    rewards,
    _print_all,
)


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A reward, or distribution:reward.", autocompletion=completion.rewards)
    ],
    form: WholeForm = "text",
    as_json: Json = False,
) -> None:
    """Describe one reward: its options, the range of its values, and the models it uses.

    Example: fktext rewards show toxicity
    """
    registry = load_registry()
    entry = registry.resolve(name)
    with contextlib.redirect_stdout(sys.stderr):
        row = _describe(next(name for name, known in registry.rewards.items() if known is entry), entry)
    plugin = next(plugin for plugin in registry.plugins if plugin.distribution == entry.distribution)
    own = {option["name"] for option in row["options"]}
    row |= {
        "version": plugin.version,
        "values": entry.values,
        "models": dict(entry.models),
        "text_options": [_option(option) for option in entry.common.values() if option.name not in own],
    }
    if as_json or form != "text":
        print(in_json(row, form), end="")
        return
    _print_reward(row)
    if row["text_options"]:
        print("    of texts also:")
    for option in row["text_options"]:
        print_wrapped(f"        {_option_line(option)}", "            ")
    print_wrapped(f"    values: {entry.values or 'not said'}", "        ")
    for model, source in entry.models.items():
        print_wrapped(f"    model {model}: {source}", "        ")


def _print_reward(row: Mapping[str, Any]) -> None:
    version = f" {row['version']}" if "version" in row else ""
    images = ", of images" * (row["modality"] == "image")
    print(visible(f"{row['name']}  ({row['distribution']}{version}{images})"))
    print_wrapped(f"    {row['summary']}", "    ")
    for option in row["options"]:
        print_wrapped(f"    {_option_line(option)}", "        ")
    if row["error"]:
        print_wrapped(f"    cannot be used: {row['error']}", "        ")


def _option_line(option: Mapping[str, Any]) -> str:
    default = "required" if option["required"] else f"default {option['default'] or 'not set'}"
    return f"{option['name']}=<{option['type']}>  {option['help']}{' ' * bool(option['help'])}[{default}]"


def _describe(name: str, entry: RewardEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "distribution": entry.distribution, "summary": entry.summary, "options": [], "error": ""}
    row["modality"] = entry.modality
    try:
        options = entry.options().values()
    except FktextError as error:
        return {**row, "error": str(error)}
    return {**row, "options": [_option(option) for option in options]}


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "type": option.expects,
        "required": option.required,
        "default": None if option.required or option.default is None else str(option.default),
        "help": option.help,
    }
