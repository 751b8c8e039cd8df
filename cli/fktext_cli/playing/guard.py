"""Let nobody in but the page itself: the token of its address, this machine's own name, small bodies of JSON."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 64 * 1024  # bytes of a request's body
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Pass on requests that come from the page, and refuse all others before anything reads them.

    A page elsewhere that guesses the port is told by its Host (against DNS rebinding) or its Origin; another user of the machine
    does not know the token.

    Args:
        app: what is guarded; it sees paths without the token.
        token: the first part of every path.
        port: of the address.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            return
        if wrong := self._wrong(scope):
            status, why = wrong
            await PlainTextResponse(why, status, headers=_HEADERS)(scope, receive, send)
            return
        body = await _body(receive) if scope["method"] == "POST" else b""
        if body is None:
            await PlainTextResponse("the request is too long", 413, headers=_HEADERS)(scope, receive, send)
            return
        unread = [body]

        async def again() -> Message:
            """Give the body that was read, and then what happens to the connection."""
            return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((key.lower().encode(), value.encode()) for key, value in _HEADERS.items()),
                ]
            await send(message)

        path = scope["path"].removeprefix(f"/{self._token}")
        inside: dict[str, Any] = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(inside, again, headed)

    def _wrong(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason of a request that is refused."""
        headers: dict[str, list[str]] = {}
        for key, value in scope["headers"]:
            headers.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if len(headers.get("host", [])) != 1 or headers["host"][0].lower() not in self._hosts:
            return 421, "this address is not served here"
        origins = headers.get("origin", [])
        if any(origin.lower() not in {f"http://{host}" for host in self._hosts} for origin in origins):
            return 403, "another page may not use this one"
        first, _, rest = scope["path"].removeprefix("/").partition("/")
        if not hmac.compare_digest(first.encode("utf-8", "replace"), self._token.encode()):
            return 404, "not found"
        if ".." in rest or "\\" in rest or "%" in rest or "\0" in rest:
            return 404, "not found"
        if scope["method"] == "POST":
            if headers.get("content-type", [""])[0].partition(";")[0].strip().lower() != "application/json":
                return 415, "expected application/json"
            length = headers.get("content-length", ["0"])[0]
            if not length.isdecimal() or len(length) > 9 or int(length) > MOST:
                return 413, "the request is too long"
        return None


async def _body(receive: Receive) -> bytes | None:
    """Read a whole body; None if it is longer than it may be."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST:
            return None
    return body
