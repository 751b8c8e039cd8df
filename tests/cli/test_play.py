"""`fktext play`: who is let in, what a run says, what hands may do; over the application itself and over a real port."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from fktext.errors import UsageError
from fktext.models import load
from fktext.plugins import load_plugins
from fktext.plugins.registry import RewardEntry
from fktext.population import Population
from fktext.rewards import RewardContext
from fktext.settings import Settings
from fktext.texts.generate import generate

pytest.importorskip("starlette")

from fktext_cli.playing.runs import OFFERED, Act, Asked, Run, offered, terms_of
from fktext_cli.playing.server import make

TOKEN, PORT = "t" * 32, 8123
GOOD = {"prompt": "the city", "rewards": [{"spec": "keywords:words=red", "weight": 2}], "particles": 4, "length": 10, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mdlm(tmp_path_factory.mktemp("play") / "model")


@pytest.fixture(scope="module")
def app(folder: Path) -> Any:
    return make(load(str(folder)), load_plugins(), TOKEN, PORT)


def ask(app: Any, *request: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request to the application, as a server would; see `asked`."""
    return asyncio.run(asked(app, *request, **headers))


async def asked(
    app: Any,
    method: str = "GET",
    path: str = f"/{TOKEN}/",
    body: bytes | dict[str, Any] = b"",
    stays: float = 3600,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Send a request from a page that stays for so many seconds."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    where, _, query = path.partition("?")
    named = {"host": f"127.0.0.1:{PORT}", "content-type": "application/json", "content-length": str(len(sent))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", PORT),
    }
    parts = [sent[at : at + 20_000] for at in range(0, len(sent), 20_000)] or [b""]
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        await asyncio.sleep(stays)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start = messages[0]
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], found, b"".join(message.get("body", b"") for message in messages[1:])


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.decode().split("\n\n") if line.startswith("data: ")]


def test_the_page_needs_nothing_from_elsewhere(app: Any) -> None:
    status, headers, body = ask(app)
    page = body.decode()
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    nonce = re.findall(r"'nonce-([\w-]+)'", headers["content-security-policy"])[0]
    assert page.count(f'<script nonce="{nonce}">') == page.count("<script") == 1
    assert not re.findall(r'(?:src|href)="|https?://', page)
    assert (headers["cache-control"], headers["x-frame-options"]) == ("no-store", "DENY")
    assert '<option value="sentiment">' in page
    assert not re.findall('<option value="(?:function|regex|classifier)">', page)
    assert TOKEN not in page  # the page knows it from its address


RUN, ACT = f"/{TOKEN}/run", f"/{TOKEN}/act"
HOSTILE: list[tuple[int, str, str, bytes | dict[str, Any], dict[str, str]]] = [
    (404, "GET", "/", b"", {}),
    (404, "GET", f"/{TOKEN[:-1]}/", b"", {}),
    (404, "GET", f"/{TOKEN}x/", b"", {}),
    (404, "GET", f"//{TOKEN}/", b"", {}),
    (421, "GET", f"/{TOKEN}/", b"", {"host": "evil.example"}),
    (421, "GET", f"/{TOKEN}/", b"", {"host": f"127.0.0.1.evil.example:{PORT}"}),
    (421, "GET", f"/{TOKEN}/", b"", {"host": f"127.0.0.1:{PORT + 1}"}),
    (421, "GET", f"/{TOKEN}/", b"", {"host": "127.0.0.1"}),
    (403, "POST", RUN, GOOD, {"origin": "http://evil.example"}),
    (403, "POST", RUN, GOOD, {"origin": "null"}),
    (403, "POST", RUN, GOOD, {"origin": f"https://127.0.0.1:{PORT}"}),
    (404, "GET", f"/{TOKEN}/../../etc/passwd", b"", {}),
    (404, "GET", f"/{TOKEN}/%2e%2e/etc/passwd", b"", {}),
    (404, "GET", f"/{TOKEN}/play.js", b"", {}),
    (405, "GET", RUN, b"", {}),
    (405, "DELETE", f"/{TOKEN}/", b"", {}),
    (415, "POST", RUN, GOOD, {"content_type": "text/plain"}),
    (415, "POST", RUN, GOOD, {"content_type": "application/x-www-form-urlencoded"}),
    (413, "POST", RUN, {**GOOD, "prompt": "x" * 70_000}, {}),
    (413, "POST", RUN, {**GOOD, "prompt": "x" * 70_000}, {"content_length": "10"}),
    (413, "POST", RUN, GOOD, {"content_length": "-1"}),
    (413, "POST", RUN, GOOD, {"content_length": "9" * 5000}),
    (422, "POST", RUN, b"{", {}),
    (422, "POST", RUN, b"[1]", {}),
    (422, "POST", RUN, b"[" * 50_000, {}),
    (422, "POST", RUN, b"\xff\xfe", {}),
    (422, "POST", RUN, {**GOOD, "prompt": "x" * 3000}, {}),
    (422, "POST", RUN, {**GOOD, "particles": 100_000}, {}),
    (422, "POST", RUN, {**GOOD, "model": "/etc/passwd"}, {}),
    (422, "POST", RUN, {**GOOD, "model": "gpt2"}, {}),
    (422, "POST", RUN, {**GOOD, "device": "cuda"}, {}),
    (422, "POST", RUN, {**GOOD, "look_ahead": "value:/etc"}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": []}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "function:target=os:system"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "own.py:f"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "json:schema=/etc/passwd"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "sentiment:model=/root"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "fktext:classifier:model=a/b"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "nonesuch"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "keywords:nonesuch=1"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "regex:pattern=(a*)*b"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "similarity:to=a,trust_remote_code=true"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "toxicity:label=insult"}]}, {}),
    (422, "POST", RUN, {**GOOD, "rewards": [{"spec": "brightness"}]}, {}),
    (422, "POST", ACT, {"what": "format the disk"}, {}),
    (404, "POST", ACT, {"what": "go"}, {}),
]


@pytest.mark.parametrize(("status", "method", "path", "body", "headers"), HOSTILE)
def test_hostile_requests_are_refused(
    status: int, method: str, path: str, body: bytes | dict[str, Any], headers: dict[str, str], app: Any
) -> None:
    found, answered, said = ask(app, method, path, body, **headers)
    assert found == status, said
    assert len(said) < 600
    assert b"\n" not in said
    assert b"Traceback" not in said
    assert answered["cache-control"] == "no-store"


def test_only_listed_rewards_are_offered_whatever_plugins_bring(folder: Path) -> None:
    theirs = [
        RewardEntry("keywords", "other", lambda context, *, words="": None, "one of a known name"),
        RewardEntry("harmless", "other", lambda context, *, source="": None, "an option that may be anything"),
        RewardEntry("tomorrow", "fktext", lambda context: None, "fktext's own that nobody has looked at"),
    ]
    assert [offered(entry) for entry in theirs] == [None] * 3
    assert offered(theirs[1], {"other:harmless"}) == ("source", "part", "trim", "empty")
    registry = load_plugins()
    assert all(set(options) <= set(registry.resolve(name).options()) for name, options in OFFERED.items())
    asked = Asked(**{**GOOD, "rewards": [{"spec": "regex:pattern=a"}]})
    with pytest.raises(UsageError, match="--allow-rewards regex"):
        terms_of(asked, registry, "cpu")
    assert terms_of(asked, registry, "cpu", {"fktext:regex"})
    with pytest.raises(UsageError, match="nonesuch"):
        make(load(str(folder)), registry, TOKEN, PORT, allowed=["nonesuch"])


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_itself_is_let_in(name: str, app: Any) -> None:
    origin = f"http://{name}:{PORT}"
    status, _, body = ask(app, "POST", RUN, GOOD, host=f"{name}:{PORT}", origin=origin)
    assert (status, events(body)[-1]) == (200, {"event": "over"})


def test_the_columns_are_what_the_command_writes(app: Any, folder: Path) -> None:
    found = events(ask(app, "POST", RUN, GOOD)[2])
    assert [found[0]["event"], found[-1]["event"]] == ["run", "over"]
    model, terms = load(str(folder)), [load_plugins().create("keywords:words=red=2", RewardContext())]
    for column, particles in (("base", 1), ("best-of-n", 4), ("fk", 4)):
        mine = [event for event in found if event.get("column") == column]
        assert [mine[0]["event"], mine[-1]["event"]] == ["start", "end"]
        settings = Settings(method=column, particles=particles, lam=10.0, length=10, seed=3)  # type: ignore[arg-type]
        [population] = [item for item in generate(model, terms, ["the city"], settings) if isinstance(item, Population)]
        assert [particle["text"] for particle in mine[-1]["particles"]] == population.texts
    first = {event["column"]: event["particles"][0]["text"] for event in found if event["event"] == "end"}
    assert first["base"] == first["best-of-n"]  # the noise is the same


def test_another_embedded_model_may_be_chosen(app: Any) -> None:
    found = events(ask(app, "POST", RUN, {**GOOD, "model": "tiny-mdlm", "particles": 2})[2])
    [board] = [event["board"] for event in found if event.get("event") == "start" and event["column"] == "fk"]
    assert "".join(filter(None, board)).strip() == "the city"
    assert "tiny-mdlm</option>" in ask(app)[2].decode()


def test_a_failing_run_is_a_line(app: Any) -> None:
    found = events(ask(app, "POST", RUN, {**GOOD, "prompt": "the city " * 40})[2])
    [line] = [event["line"] for event in found if event["event"] == "error"]
    assert "\n" not in line
    assert found[-1] == {"event": "over"}


def begun(folder: Path, **changes: Any) -> Run:
    asked = Asked(**(GOOD | {"paused": True} | changes))
    run = Run(load(str(folder)), terms_of(asked, load_plugins(), "cpu"), asked)
    run.start()
    return run


def until(run: Run, event: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (said := run.said(1)) is None:
            raise AssertionError(f"it ended before {event!r}")
        if said.get("event") == event and said.get("column") not in ("base", "best-of-n"):
            return said
    raise AssertionError(f"no {event!r}")


def test_a_hand_steps_and_reaches_in(folder: Path) -> None:
    run = begun(folder)
    until(run, "paused")
    assert run.said(0.3) == {}  # it waits
    run.act(Act(what="step"))
    first = until(run, "weighing")
    until(run, "paused")
    kept = first["ancestors"][0]
    for particle in range(4):
        if particle != kept:
            run.act(Act(what="drop", particle=particle))
    run.act(Act(what="weigh", weights=[3.0]))
    run.act(Act(what="go"))
    after = until(run, "weighing")
    left = {place for place, ancestor in enumerate(first["ancestors"]) if ancestor == kept}
    assert {place for place, weight in enumerate(after["log_weights"]) if weight > -5000} == left
    assert until(run, "end")["particles"]
    run.stop()


def test_a_run_stops_when_it_is_told_to(folder: Path) -> None:
    run = begun(folder)
    until(run, "paused")
    run.stop()
    assert run.said(1) is None


def test_a_page_that_goes_away_keeps_its_turn_until_its_run_has_ended(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    start, stop = Run.start, Run.stop

    def starts(run: Run) -> None:
        told.append("start")
        start(run)

    def stops(run: Run) -> None:
        time.sleep(0.5)
        stop(run)
        told.append("stop")

    monkeypatch.setattr(Run, "start", starts)
    monkeypatch.setattr(Run, "stop", stops)

    async def both() -> None:
        await asyncio.gather(asked(app, "POST", RUN, GOOD | {"paused": True}, 1.0), asked(app, "POST", RUN, GOOD))

    asyncio.run(both())
    assert told == ["start", "stop"] * 2


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    arguments = [sys.executable, "-m", "fktext_cli", "play", "--model", str(folder), "--threads", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert "Traceback" not in told


def test_a_real_server_runs_one_thing_at_a_time_and_stops_what_nobody_hears(server: str) -> None:
    port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", server).groups()  # type: ignore[union-attr]

    def post(body: dict[str, Any], path: str = "run") -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        connection.request("POST", f"/{token}/{path}", json.dumps(body), {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def lines(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    first, answer = post({**GOOD, "paused": True})
    running = lines(answer)
    assert next(running)["event"] == "run"
    assert any(event["event"] == "paused" for event in running)
    second, waiting = post(GOOD)
    rest = lines(waiting)
    assert next(rest)["event"] == "waiting"
    answer.close()
    first.close()  # the tab is closed: its run ends, and the other's begins
    assert [event["event"] for event in rest if event["event"] != "waiting"][-1] == "over"
    second.close()
    wrong = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    wrong.request("GET", f"/{token}/", headers={"Host": "evil.example"})
    assert wrong.getresponse().status == 421
    wrong.close()


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from fktext_cli import app as whole

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(whole, ["play"], prog_name="fktext")
    assert done.exit_code == 2
    assert "pip install 'fktext[play]'" in done.stderr
