"""Say what a shell may complete: the names of rewards, models, kernels and suites. None of it imports torch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable

import typer


def rewards(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the rewards of what the command makes, texts or images; all of them for `fktext rewards`."""
    path = ctx.command_path.split()
    wanted = ("text", "image") if "rewards" in path else ("image",) if "image" in path else ("text",)

    def names() -> Iterable[str]:
        from fktext.plugins import load_plugins

        return [name for name, entry in load_plugins().rewards.items() if entry.modality in wanted]

    return _matching(names, incomplete)


def models(incomplete: str) -> list[str]:
    """Return the models of texts that have a name."""

    def names() -> Iterable[str]:
        from fktext.files.catalogue import catalogue
        from fktext.plugins import load_plugins

        return [*(entry.name for entry in catalogue()), *load_plugins().models]

    return _matching(names, incomplete)


def kernels(incomplete: str) -> list[str]:
    """Return the reverse processes of all families of models."""

    def names() -> Iterable[str]:
        from fktext.families import FAMILIES

        return [kernel for family in FAMILIES.values() for kernel in family.kernels]

    return _matching(names, incomplete)


def suites(incomplete: str) -> list[str]:
    """Return the suites, those of plugins too."""

    def names() -> Iterable[str]:
        from fktext.plugins import load_plugins
        from fktext_evals.suites import catalogue

        return [*catalogue.names(), *(entry.name for entry in load_plugins().suites)]

    return _matching(names, incomplete)


def _matching(names: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    """Return the names that begin so; what a plugin prints or raises is no completion."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception):
        return [name for name in dict.fromkeys(names()) if name.startswith(incomplete)]
    return []
