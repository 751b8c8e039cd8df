"""What there is: `fktext rewards`, `fktext plugins`; and whether it works here: `fktext selftest`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fktext.errors import FktextError
from fktext_cli.common import Form, Json, print_table
from fktext_cli.common import load_registry as load_registry  # `evals` takes it from here
from fktext_cli.common import resolve_device as resolve_device
from fktext_cli.options import MOST_SAMPLES
from fktext_cli.streams import visible

if TYPE_CHECKING:  # what a command needs is imported when it runs, so that --help is fast
    from fktext.plugins.registry import Option, RewardEntry

rewards_app = typer.Typer(invoke_without_command=True)
plugins_app = typer.Typer(invoke_without_command=True)


@rewards_app.callback()
def rewards(context: typer.Context, form: Form = "text") -> None:
    """List the rewards and their options, those of images marked, or `show` one of them."""
    from fktext.plugins.registry import WINDOW

    if context.invoked_subcommand is not None:
        return
    for name, entry in load_registry().rewards.items():
        with contextlib.redirect_stdout(sys.stderr):
            row = _describe(name, entry)
        if form == "jsonl":
            print(json.dumps(row))
        else:
            _print_reward(row)
    if form == "text":
        print("\nEvery reward of texts also takes " + ", ".join(f"{option.name}=<{option.expects}>" for option in WINDOW.values()))
        print("`fktext rewards show NAME` says more of one")


@rewards_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A reward, or distribution:reward.")],
    as_json: Json = False,
) -> None:
    """One reward: its options, the range of its values, and whose models it uses.

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
    if as_json:
        print(json.dumps(row, indent=1))
        return
    _print_reward(row)
    if row["text_options"]:
        print("    of texts also:")
    for option in row["text_options"]:
        print(f"        {_option_line(option)}")
    print(visible(f"    values: {entry.values or 'not said'}"))
    for model, source in entry.models.items():
        print(visible(f"    model {model}: {source}"))


def _print_reward(row: Mapping[str, Any]) -> None:
    version = f" {row['version']}" if "version" in row else ""
    images = ", of images" * (row["modality"] == "image")
    print(visible(f"{row['name']}  ({row['distribution']}{version}{images})"))
    print(visible(f"    {row['summary']}"))
    for option in row["options"]:
        print(f"    {_option_line(option)}")
    if row["error"]:
        print(visible(f"    cannot be used: {row['error']}"))


def _option_line(option: Mapping[str, Any]) -> str:
    default = "required" if option["required"] else f"default {option['default'] or 'not set'}"
    return visible(f"{option['name']}=<{option['type']}>  {option['help']}{' ' * bool(option['help'])}[{default}]")


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


@plugins_app.callback()
def plugins(context: typer.Context, form: Form = "text") -> None:
    """List the installed plugins, the broken ones too."""
    if context.invoked_subcommand is None:
        print_table(_plugins(), form)


@plugins_app.command("list")
def list_plugins(form: Form = "text", as_json: Json = False) -> None:
    """List the installed plugins: status, version, hooks, and what is wrong with the broken ones.

    Example: fktext plugins list --json
    """
    rows = _plugins()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows, form)


def _plugins() -> list[dict[str, Any]]:
    from fktext.plugins import load_plugins

    with contextlib.redirect_stdout(sys.stderr):
        registry = load_plugins()
    return [
        {
            "plugin": f"{plugin.distribution}:{plugin.name}",
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "hooks": list(plugin.hooks),
            "rewards": list(plugin.rewards),
            "models": list(plugin.models),
            "error": plugin.error,
        }
        for plugin in registry.plugins
    ]


def selftest(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    populations: Annotated[
        int, typer.Option(min=1000, max=MOST_SAMPLES, help="Independent populations per check; more sees smaller errors.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    form: Form = "text",
) -> None:
    """Check on this machine that the sampler aims at the exact law.

    Many small populations on a model whose texts can all be listed are compared with the law itself, for every potential and
    resampler; |z| is the largest difference in standard errors. The last checks are wrong on purpose and must be caught.
    Exit code 1 if a check fails.
    """
    from fktext.testing.selftest import run

    device = resolve_device(device)
    started = time.perf_counter()
    results = []
    for row in run(device=device, seed=seed, populations=populations):
        results.append(row.passed)
        if form == "jsonl":
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(f"{row.check:<42}{row.expected:<32}{row.measured:<18}{'ok' if row.passed else 'FAILED'}", flush=True)
    seconds = time.perf_counter() - started
    print(f"{sum(results)} of {len(results)} checks passed on {device} in {seconds:.1f} s", file=sys.stderr)
    if not all(results):
        raise typer.Exit(1)
