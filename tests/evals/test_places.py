"""Runs whose folder is an address of fsspec: an object for each cell, read together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from fktext.errors import UsageError
from fktext_cli import app
from fktext_evals import Results, load, markdown, read, run
from fktext_evals.running.places import PlaceError, place

pytest.importorskip("upath", reason="the extra [s3]")


def exact(results: Results) -> list[dict[str, Any]]:
    """The rows without their seconds."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in results.rows]


@pytest.fixture
def address() -> str:
    return f"memory://{uuid4().hex}/run"


def test_a_run_in_parts_at_an_address_is_the_whole(whole: Results, suite_file: Path, address: str) -> None:
    first = run(str(suite_file), out=address, shard=(1, 2))
    assert first.missing == 24
    assert "| fk | 2 |" in markdown(first)
    found = run(str(suite_file), out=address, retries=0)  # by a worker
    assert exact(found) == exact(whole)
    assert found.run == whole.run
    names = sorted(path.name for path in place(address).glob("*"))
    assert [sum(name.startswith(kind) for name in names) for kind in ("run.json", "rows-", "sessions-")] == [1, 8, 2]
    again = run(str(suite_file), out=address)
    assert exact(again) == exact(whole)
    assert sorted(path.name for path in place(address).glob("*")) == names
    with pytest.raises(UsageError, match="holds another run"):
        run(load(str(suite_file)), out=address, dtype="bfloat16")


def test_the_command_line_takes_an_address(suite_file: Path, address: str) -> None:
    options = ["--set", "samples=1", "seeds=[0]", "--out", address]
    done = CliRunner().invoke(app, ["eval", "run", str(suite_file), *options])
    assert done.exit_code == 0, done.stderr
    assert f"the rows are in {address}" in done.stderr
    assert CliRunner().invoke(app, ["eval", "report", address]).stdout == done.stdout
    assert CliRunner().invoke(app, ["eval", "compare", address, "--method", "fk:2", "--against", "fk:3"]).exit_code == 0


def test_what_cannot_be_reached_is_one_line(suite_file: Path) -> None:
    with pytest.raises(UsageError, match="is no address that fsspec knows"):
        run(str(suite_file), out="nowhere://a/b")
    with pytest.raises(UsageError, match="holds no run"):
        read("memory://empty/run")
    with pytest.raises(UsageError, match="jobs of Slurm write to a folder that all of them see, not to 'memory://a'"):
        run(str(suite_file), out="memory://a", executor="slurm")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a server that speaks S3 on this machine."""
    pytest.importorskip("moto", reason="an S3 server: pip install 'moto[server]'")
    pytest.importorskip("s3fs", reason="the extra [s3]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, value in {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    deadline = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket/run"
    server.terminate()
    server.wait()


@pytest.mark.long
def test_a_bucket(whole: Results, suite_file: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(str(suite_file), out=s3, shard=(1, 2)).missing == 24
    assert exact(run(str(suite_file), out=s3, workers=2)) == exact(whole)
    assert exact(read(place(s3))) == exact(whole)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(PlaceError, match=r"^cannot reach 's3://bucket/run\S*': [^\n]*connect[^\n]*$"):
        read(place(s3))
