"""`fktext models list|show|check|pull`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Call = Callable[..., Result]


def test_alone_is_the_list(call: Call) -> None:
    alone, listed = call("models"), call("models", "list")
    assert alone.exit_code == listed.exit_code == 0
    assert alone.stdout == listed.stdout
    assert listed.stdout.splitlines()[0].split() == ["name", "family", "source", "licence", "summary"]
    rows = json.loads(call("models", "list", "--json").stdout)
    assert [json.loads(line) for line in call("models", "--format", "jsonl").stdout.splitlines()] == rows
    assert {"tiny-mdlm", "mdlm-owt", "llada-instruct"} <= {row["name"] for row in rows}


def test_show(call: Call, tiny: Path) -> None:
    (tiny / "README.md").write_text("---\nlicense: cc0-1.0\ntags:\n- a\n---\n# A card\n")
    row = json.loads(call("models", "show", tiny, "--json").stdout)
    (tiny / "README.md").unlink()
    weights = tiny / "model.safetensors"
    assert (row["family"], row["source"], row["licence"]) == ("dit", "folder", "cc0-1.0")
    assert (row["files"], row["size"], row["most"]) == (str(tiny), weights.stat().st_size, 12)
    assert row["defaults"] == {"length": 8, "steps": 6, "temperature": 1.0, "top_p": 1.0}
    assert row["memory"]["bfloat16"] == row["memory"]["float32"] / 2 == 2 * row["parameters"]
    assert row["kernels"][0] == "ancestral"
    lines = call("models", "show", tiny).stdout.splitlines()
    assert lines[0] == str(tiny)
    assert f"    digest:     {row['digest']}" not in lines
    assert any(row["digest"] in line for line in lines)
    assert "    licence:    not stated" in lines


def test_show_agrees_with_the_loaded_model(tiny: Path) -> None:
    from fktext.models import load
    from fktext.models.facts import facts

    for name in (str(tiny), "tiny-mdlm"):
        found, model = facts(name), load(name)
        assert found.digest == model.digest
        assert found.parameters == sum(tensor.numel() for tensor in model.denoiser.parameters())  # type: ignore[attr-defined]
        assert (found.most, found.kernels) == (model.denoiser.max_length, model.kernels)
        assert found.defaults == {
            "length": model.default_length,
            "steps": model.default_steps,
            "temperature": model.default_temperature,
            "top_p": model.default_top_p,
        }


def test_show_of_what_is_not_here(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    result = call("models", "show", "llada-instruct")
    assert result.exit_code == 0
    assert "    files:      not on this machine; `fktext models pull llada-instruct` fetches it" in result.stdout.splitlines()
    assert call("models", "show", "someone/something").exit_code == 0
    wrong = call("models", "show", "llada-instrukt")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "did you mean 'llada-instruct'?" in wrong.stderr


def test_check(call: Call, tiny: Path) -> None:
    result = call("models", "check", tiny)
    assert result.exit_code == 0, result.stderr
    assert {line.split()[-1] for line in result.stdout.splitlines()} == {"ok"}
    assert "7 of 7 checks passed on" in result.stderr
    rows = [json.loads(line) for line in call("models", "check", tiny, "--format", "jsonl").stdout.splitlines()]
    assert {"check", "expected", "measured", "passed"} == set(rows[0])


def test_check_says_that_a_model_is_not_the_published_one(call: Call, tiny: Path) -> None:
    result = call("models", "check", tiny, "--as", "mdlm-owt")
    assert result.exit_code == 1
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["ok"] * 7 + ["FAILED"] * 3
    assert "another vocabulary" in result.stdout
    assert "published numbers: candle-mi, scripts/mdlm_forward_reference.json" in result.stderr
    assert call("models", "check", tiny, "--as", "mdlm-owt", "--dtype", "bfloat16").exit_code == 2
    assert "unknown published model 'gpt2'" in call("models", "check", tiny, "--as", "gpt2").stderr


def test_pull(call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, tmp_path / "bare" / name)
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    shutil.copy(tiny / "tokenizer.json", gpt2)
    asked = []

    def fetch(repo: str, allow_patterns: list[str]) -> str:
        asked.append(repo)
        return str({"kuleshov-group/mdlm-owt": tmp_path / "bare", "openai-community/gpt2": gpt2}[repo])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    result = call("models", "pull", "mdlm-owt")
    assert result.exit_code == 0, result.stderr
    assert asked == ["kuleshov-group/mdlm-owt", "openai-community/gpt2"]
    assert result.stdout.splitlines() == [str(tmp_path / "bare"), str(gpt2 / "tokenizer.json")]
    assert call("models", "pull", tiny).stdout.splitlines() == [str(tiny)]
    assert asked[2:] == []
