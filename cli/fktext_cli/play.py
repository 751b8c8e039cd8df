"""`fktext play`: steer by hand, in a page that this machine serves to itself."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from fktext.errors import UsageError
from fktext_cli import completion
from fktext_cli.common import load_registry
from fktext_cli.options import Dtype, Where, run_option, sample_option, unfolded
from fktext_cli.progress import stage

app = typer.Typer(add_completion=False)


@app.command()
@unfolded()
def play(
    *,
    model: Annotated[
        str,
        sample_option("--model", "-m", help="An embedded model, a folder, an alias or a hub id.", autocompletion=completion.models),
    ] = "tiny-mdlm",
    port: Annotated[int, run_option(min=0, max=65535, help="Of 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, run_option("--open", help="Open the page in a browser.")] = False,
    allow_rewards: Annotated[
        list[str] | None,
        run_option(
            metavar="NAME", help="A reward the page may use with every option, even files and code; repeatable.", show_default=False
        ),
    ] = None,
    where: Where,
    dtype: Dtype = "float32",
) -> None:
    """Watch particles live in a page, stop them, and reach in by hand.

    Prints the page's address, which this machine alone can open, and serves it until interrupted.

    Example: fktext play --open
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UsageError("fktext play needs starlette and uvicorn: pip install 'fktext[play]'") from error
    stdout, device = sys.stdout, where.ready()
    with contextlib.redirect_stdout(sys.stderr):
        from fktext.models import load
        from fktext_cli.playing.server import make

        registry = load_registry()
        allowed = {registry.resolve(name).qualified for name in allow_rewards or ()}
        with stage(f"loading {Path(model).name}"):
            loaded = load(model, device=device, dtype=dtype, offline=where.offline)
        try:
            listening = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"port {port} of 127.0.0.1 cannot be served: {error.strerror}") from error
        token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
        address = f"http://127.0.0.1:{port}/{token}/"
        served = make(loaded, registry, token, port, device, allowed)
        config = uvicorn.Config(served, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        print(address, file=stdout, flush=True)
        print("press Ctrl-C to end", file=sys.stderr)
        if browser:
            import webbrowser

            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listening])
