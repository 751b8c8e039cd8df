"""What rewards by a model share, as a third party's would use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.files.provenance import weights_digest
from fktext.rewards import Judged, LogProbability, RewardContext, Scorer, Weighted, loading, locate

OFFLINE = RewardContext(offline=True)


class Lengths:
    """Log-odds that are the number of letters; it remembers what it was asked."""

    label = "long"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def log_odds(self, texts: list[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([float(len(text)) for text in texts], dtype=torch.float64)


def test_a_class_and_its_opposite_add_up_to_one() -> None:
    one, other = (LogProbability(Lengths(), "m", "g", opposite=opposite).score(["", "abc", "a" * 40]) for opposite in (False, True))
    torch.testing.assert_close(one.exp() + other.exp(), torch.ones(3, dtype=torch.float64))
    assert one[0] == other[0] == torch.tensor(0.5, dtype=torch.float64).log()
    assert other[2].item() == pytest.approx(-40)


def test_white_space_is_worth_what_empty_says_and_not_asked_about() -> None:
    judge = Lengths()
    reward = LogProbability(judge, "m", "g", empty=-10.0)
    assert reward.score([" \n", "abc", ""])[[0, 2]].tolist() == [-10.0, -10.0]
    assert judge.asked == ["abc"]
    assert reward.score([""]).tolist() == [-10.0]
    assert reward.score([]).shape == (0,)
    assert judge.asked == ["abc"]


def test_results_are_told_which_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = embedded.path("heldout-toxicity")
    told = Weighted("r", LogProbability(Lengths(), "mine", "towards long text", folder), plugin="p 1").provenance()
    assert told == {"plugin": "p 1", "model": "mine", "digest": weights_digest(folder)}
    revision, repo = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    (repo / "snapshots" / revision).mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (repo / "snapshots" / revision / file).symlink_to(folder / file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = Judged("some/model", "goal", "some/model")
    assert (hub.revision, hub.digest) == (revision, told["digest"])
    nothing = Judged("a function", "goal")
    assert (nothing.revision, nothing.digest) == (None, None)


def test_a_scorer_takes_it() -> None:
    assert Scorer([Weighted("long", LogProbability(Lengths(), "m", "g"))])(["a", "aaa"]).diff(dim=0).item() > 0


def test_where_a_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-cola").mkdir()
    (tmp_path / "file.ckpt").touch()
    own = ("tiny-cola",)
    assert locate("tiny-cola", own) == embedded.path("tiny-cola")
    assert locate("./tiny-cola", own) == Path("tiny-cola")
    assert locate("file.ckpt", own, "judge") == Path("file.ckpt")
    assert locate("some/model", own, "judge") == "some/model"
    assert locate("gpt2", own, "judge", ("gpt2",)) == locate("gpt2", own) == "gpt2"
    for name in ("tiny-kola", "./some/model", "~/model", "/some", "a/b/c"):
        with pytest.raises(UsageError, match=f"unknown judge {name!r}: .*Known: a folder, a hub id, tiny-cola"):
            locate(name, own, "judge")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError("first\nsecond"),
            r"cannot load the judge 'x' .the run is offline: only folders and the local hub cache count.: first$",
        ),
        (OSError(""), r"count\): $"),
        (ValueError("set trust_remote_code"), "Python code of its own"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(error: Exception, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught, loading("judge", "x", OFFLINE):
        raise error
    assert "\n" not in str(caught.value)


def test_it_is_cheap_to_import() -> None:
    code = "import sys; from fktext.rewards import Judged, RewardContext, load_network; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
