"""`fktext plugins`: what is installed, the broken ones too."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import typer

from fktext_cli.common import Form, Json, print_table

app = typer.Typer(add_completion=False, invoke_without_command=True)


@app.callback()
def plugins(context: typer.Context, form: Form = "text") -> None:
    """List the installed plugins, the broken ones too."""
    if context.invoked_subcommand is None:
        print_table(_plugins(), form)


@app.command("list")
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
