"""The server of `fktext play`: a page, runs as server-sent events, and what hands do to them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Collection
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

import fktext
from fktext import embedded, player
from fktext.errors import FktextError, unknown_name
from fktext_cli.playing.guard import Guard
from fktext_cli.playing.runs import Act, Asked, Run, offered, terms_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from fktext.plugins.registry import Registry
    from fktext.texts.model import TextModel

BEAT = 0.5  # seconds without news, after which a page is asked whether it is still there
Body = TypeVar("Body", bound=BaseModel)


def make(
    model: TextModel, registry: Registry, token: str, port: int, device: str = "cpu", allowed: Collection[str] = ()
) -> ASGIApp:
    """Make the application that serves a model on a loopback port under `/TOKEN/`.

    Args:
        model: what runs are of, where a page does not choose an embedded one.
        registry: the rewards there are.
        token: of at least 128 bits, part of every address.
        port: of this machine, for Host and Origin.
        device: of the rewards.
        allowed: rewards that a page may ask for beside those that are offered to all, see `fktext_cli.playing.runs.offered`.

    Raises:
        UsageError: one of them is not known.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    server = _Server(model, registry, device, {registry.resolve(name).qualified for name in allowed})
    routes = [
        Route("/", server.page, methods=["GET"]),
        Route("/run", server.run, methods=["POST"]),
        Route("/act", server.act, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), token, port)


class _Server:
    """Answer the page of one model; one run at a time."""

    def __init__(self, model: TextModel, registry: Registry, device: str, allowed: Collection[str]) -> None:
        self._registry, self._device, self._allowed = registry, device, allowed
        self._first = model.name
        self._models: dict[str, TextModel | None] = {model.name: model} | {
            name: None for name in embedded.names("text") if name != model.name
        }
        self._turn = asyncio.Lock()
        self._running: dict[str, Run] = {}

    async def page(self, request: Request) -> Response:
        """Return the page, whose script alone may run."""
        from starlette.responses import HTMLResponse

        nonce = secrets.token_urlsafe(16)
        policy = {
            "default-src": "'none'",
            "script-src": f"'nonce-{nonce}'",
            "style-src": "'unsafe-inline'",
            "connect-src": "'self'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        rules = "; ".join(f"{name} {value}" for name, value in policy.items())
        return HTMLResponse(self._html(nonce), headers={"Content-Security-Policy": rules})

    def _html(self, nonce: str) -> str:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup

        from fktext_evals.reporting import page

        environment = Environment(loader=PackageLoader("fktext_cli.playing", "."), autoescape=True, undefined=StrictUndefined)
        names = (name for name, entry in self._registry.rewards.items() if offered(entry, self._allowed) is not None)
        script = resources.files("fktext_cli.playing") / "play.js"
        return environment.get_template("play.html.j2").render(
            model=self._first,
            models=list(self._models),
            names=sorted(names),
            nonce=nonce,
            style=Markup(f"{page.style()}\n{player.asset('player.css')}"),
            script=Markup(f"{player.asset('player.js')}\n{script.read_text(encoding='utf-8')}"),
            version=fktext.__version__,
        )

    async def run(self, request: Request) -> Response:
        """Stream a run's events; it ends when the page goes away."""
        from starlette.responses import StreamingResponse

        asked = await self._read(request, Asked)
        if not isinstance(asked, Asked):
            return asked
        try:
            model = await asyncio.to_thread(self._loaded, asked.model or self._first)
            terms = await asyncio.to_thread(terms_of, asked, self._registry, self._device, self._allowed)
        except FktextError as error:
            return _refused(str(error))
        return StreamingResponse(self._stream(Run(model, terms, asked)), media_type="text/event-stream")

    def _loaded(self, name: str) -> TextModel:
        """Return a model that a page may choose, loaded when it is first asked for.

        Raises:
            UsageError: it may not.
        """
        from fktext.models import load

        if name not in self._models:
            raise unknown_name("model", name, self._models)
        if (found := self._models[name]) is None:
            found = self._models[name] = load(name, device=self._device, offline=True)
        return found

    async def _stream(self, run: Run) -> AsyncIterator[str]:
        """Wait for the turn, run, and tell; a beat between finds out whether anyone is there."""
        import anyio

        name = secrets.token_urlsafe(16)
        while self._turn.locked():
            yield _event({"event": "waiting"})
            await asyncio.sleep(BEAT)
        async with self._turn:
            self._running[name] = run
            run.start()
            try:
                yield _event({"event": "run", "name": name})
                while (said := await asyncio.to_thread(run.said, BEAT)) is not None:
                    yield _event(said) if said else ": still here\n\n"
                yield _event({"event": "over"})
            finally:
                del self._running[name]
                with anyio.CancelScope(shield=True):  # the turn is kept until the run has ended, also where the page is gone
                    await asyncio.to_thread(run.stop)

    async def act(self, request: Request) -> Response:
        """Do what a hand asks for."""
        from starlette.responses import JSONResponse

        found = await self._read(request, Act)
        if not isinstance(found, Act):
            return found
        run = self._running.get(request.query_params.get("name", ""))
        if run is None:
            return _refused("there is no such run any more", 404)
        try:
            run.act(found)
        except FktextError as error:
            return _refused(str(error))
        return JSONResponse({"pinned": sorted(run.hand.pinned)})

    async def _read(self, request: Request, kind: Callable[..., Body]) -> Body | Response:
        """Read a body, or return the answer that says what is wrong with it."""
        try:
            body: Any = json.loads(await request.body())
            return kind(**body)
        except ValidationError as error:
            first = error.errors()[0]
            return _refused(f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}")
        except (ValueError, TypeError, RecursionError):
            return _refused("expected a JSON object")


def _event(said: dict[str, Any]) -> str:
    """Write a server-sent event; JSON in ASCII has no line breaks."""
    return f"data: {json.dumps(said, allow_nan=False, separators=(',', ':'))}\n\n"


def _refused(line: str, status: int = 422) -> Response:
    """Return why something is not done, in a line."""
    from starlette.responses import JSONResponse

    return JSONResponse({"error": " ".join(line.split())}, status)
