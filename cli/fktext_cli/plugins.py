"""`fktext plugins`: list what is installed, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from fktext_cli.common import listing, print_columns


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
            "error": plugin.error,
        }
        for plugin in load_plugins().plugins
    ]


app = listing(
    "List the installed plugins, the broken ones too.",
    """List the installed plugins: status, version, hooks, and what is wrong with the broken ones.

    Example: fktext plugins list --json
    """,
    plugins,
    print_columns,
)
