"""`fktext models`: list, describe, check and fetch models."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fktext.errors import UsageError
from fktext_cli import completion
from fktext_cli.common import Form, Json, WholeForm, in_json, listing, load_registry, print_columns, report
from fktext_cli.options import Device, Dtype, Offline, resolve_device
from fktext_cli.streams import visible

if TYPE_CHECKING:  # these import torch
    from fktext.images.facts import PipelineFacts
    from fktext.models.facts import Facts

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A listed name, a folder, a .ckpt file or a hub id.",
        show_default=False,
        autocompletion=completion.models,
    ),
]


def models() -> list[dict[str, Any]]:
    """Return a row for each model that has a name."""
    from fktext.files.catalogue import catalogue, image_catalogue

    own = [
        {
            "name": name,
            "family": entry.family,
            "source": entry.source or entry.distribution,
            "licence": entry.licence,
            "summary": entry.summary,
        }
        for name, entry in load_registry().models.items()
    ]
    return [entry._asdict() for entry in (*catalogue(), *image_catalogue())] + own


app = listing(
    "List, describe, check and fetch models.",
    """List the models by name: embedded ones, aliases of public ones, and what plugins bring. Those of diffusers make images.

    Example: fktext models list --format json
    """,
    models,
    print_columns,
)


@app.command()
def show(name: Name, form: WholeForm = "text", as_json: Json = False) -> None:
    """Describe a model without loading it or touching a network.

    Example: fktext models show tiny-mdlm
    """
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.images.names import is_pipeline

        found, lines = _pipeline(name) if is_pipeline(name) else _texts(name)
    if as_json or form != "text":
        print(in_json({**asdict(found), "files": str(found.files) if found.files else None}, form), end="")
        return
    for line in [found.name, *([f"    {found.summary}"] if found.summary else [])]:
        print(visible(line))
    for key, value in lines.items():
        print(visible(f"    {key + ':':<12}{value}"))


def _texts(name: str) -> tuple[Facts, dict[str, str]]:
    """Return what is known of a model of texts, and how it is told."""
    from rich.filesize import decimal

    from fktext.models.facts import facts

    found = facts(name)
    lines = {"family": found.family or "not known before its files are here", "source": found.source, "licence": found.licence}
    if found.files is None:
        return found, {**lines, "files": found.why}
    return found, lines | {
        "files": str(found.files),
        "size": f"{decimal(found.size)} of weights, digest {found.digest}",
        "parameters": f"{found.parameters:,}",
        "memory": _memory(found.memory),
        "length": f"{found.defaults['length']:g} tokens by default, at most {found.most} at once",
        "defaults": ", ".join(f"{key} {value:g}" for key, value in found.defaults.items() if key != "length"),
        "kernels": ", ".join(found.kernels),
    }


def _pipeline(name: str) -> tuple[PipelineFacts, dict[str, str]]:
    """Return what is known of a pipeline of images, and how it is told."""
    from rich.filesize import decimal

    from fktext.images.facts import facts

    found = facts(name)
    lines = {"family": found.family, "source": found.source, "licence": found.licence}
    if found.files is None:
        return found, {**lines, "files": found.why}
    return found, lines | {
        "files": str(found.files),
        "pipeline": found.pipeline,
        "scheduler": found.scheduler,
        "size": f"{decimal(found.size)} of weights, digest {found.digest}",
        "parameters": ", ".join(f"{part} {number:,}" for part, number in found.parameters.items()),
        "memory": _memory(found.memory),
        "use": f"fktext image generate --model {name}",
    }


def _memory(sizes: Mapping[str, int]) -> str:
    from rich.filesize import decimal

    return ", ".join(f"{dtype} {decimal(size)}" for dtype, size in sizes.items()) + " for the weights"


@app.command()
def check(
    name: Name,
    yardstick: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="The published model that it should match.", show_default="NAME, if it is one"),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    offline: Offline = False,
    form: Form = "text",
) -> None:
    """Load a model and check that it does what the engine relies on, and matches published numbers where there are some.

    Exits with code 1 if a check fails.

    Example: fktext models check tiny-mdlm
    """
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.errors import unknown_name
        from fktext.files.catalogue import published_as
        from fktext.models import load
        from fktext.testing.model_check import YARDSTICKS, run

        if yardstick is not None and yardstick not in YARDSTICKS:
            raise unknown_name("published model", yardstick, YARDSTICKS)
        device = resolve_device(device)
        wanted = YARDSTICKS.get(yardstick or published_as(name))
        if wanted is not None and dtype != "float32":
            raise UsageError(f"published numbers are of float32: leave out --dtype {dtype}")
        model = load(name, device=device, dtype=dtype, offline=offline)
    if wanted is not None:
        print(f"published numbers: {wanted.source}; tolerance {wanted.tolerance:g}", file=sys.stderr)
    report(run(model, wanted, seed=seed), form, (52, 44, 44), device)


@app.command()
def pull(name: Name, offline: Offline = False) -> None:
    """Fetch a model, and its tokenizer where that is in another repository, into the local hub cache; print where the files are.

    Example: fktext models pull tiny-mdlm
    """
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.models import pull

        print(f"looking for {name}", file=sys.stderr)
        paths = pull(name, offline=offline)
    for path in paths:
        print(path)
