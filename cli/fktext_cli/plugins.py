"""`fktext plugins`: list what is installed, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from fktext_cli.common import Rows, listing, print_wrapped


def plugins() -> list[dict[str, Any]]:
    """Return a row for each plugin."""
    from fktext.plugins import load_plugins

    return [
        {
            "plugin": f"{plugin.distribution}:{plugin.name}",
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "hooks": list(plugin.hooks),
            "rewards": list(plugin.rewards),
            "models": list(plugin.models),
            "suites": list(plugin.suites),
            "parts": list(plugin.parts),
            "error": plugin.error,
        }
        for plugin in load_plugins().plugins
    ]


def _print_all(rows: Rows) -> None:
    for row in rows:
        print_wrapped(f"{row['plugin']}  {row['version']}  {row['status']}")
        for name in ("error", "rewards", "models", "suites", "parts"):
            if row[name]:
                said = row[name] if isinstance(row[name], str) else ", ".join(row[name])
                print_wrapped(f"    {name + ':':<9}{said}", "             ")


app = listing(
    "List the installed plugins, the broken ones too.",
    """List the installed plugins: status, version, what they bring, and what is wrong with the broken ones.

    Example: fktext plugins list --format json
    """,
    plugins,
    _print_all,
)
