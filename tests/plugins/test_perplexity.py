"""The perplexity reward: tiny causal models made here, and the two embedded ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertLMHeadModel,
    GPT2LMHeadModel,
)

import tiny
from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.files.weights import quantised
from fktext.plugins import load_plugins
from fktext.rewards import Reward, RewardContext, Scorer, Weighted
from fktext.testing import RewardConformance
from fktext.text import Text, Tokens, vocabulary_digest
from fktext_plugins.perplexity import EMBEDDED, Perplexity, perplexity

OFFLINE = RewardContext(offline=True, batch_size=3)
WORDS = ["<s>", "<pad>", "[UNK]", "the", "a", "book", "lake", "was", "calm", "cold", "red", "on", "and", "table"]
TEXTS = ["the book was red", "the lake", "a", "the lake was calm and cold and the book was on the table", "", "the the"]
LENGTH = 16


def save_tokenizer(folder: Path, **special: str) -> None:
    tiny.save_fast(tiny.word_level(WORDS, "[UNK]", marks=True), folder, unk_token="[UNK]", **special)


def gpt2(folder: Path, **special: str) -> GPT2LMHeadModel:
    """A tiny random GPT-2, whose logits are far apart, saved in a folder."""
    save_tokenizer(folder, **special)
    sizes = {"n_positions": LENGTH, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return tiny.network("GPT2LMHeadModel", folder, vocab_size=len(WORDS), initializer_range=0.5, **sizes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    gpt2(path, bos_token="<s>")
    return path


@torch.no_grad()
def expected(model: Any, text: str, bos: bool = True, given: int = 0) -> torch.Tensor:
    """(n - given,) log p of each word, one text at a time, straight through transformers."""
    ids = torch.tensor([[0] * bos + [WORDS.index(word) for word in text.split()]])
    log_p = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return log_p.gather(1, ids[0, 1:, None])[:, 0][given - (not bos and given > 0) :]


def create(spec: str, context: RewardContext = OFFLINE) -> Perplexity:
    reward = load_plugins().create(spec, context).reward
    assert isinstance(reward, Perplexity)
    return reward


class TestConformance(RewardConformance):
    imports = ("fktext_plugins.builtin", "fktext_plugins.causal", "fktext_plugins.backoff")

    @pytest.fixture(params=[*EMBEDDED, "gpt2", "sum", "scored"])
    def factory(self, request: pytest.FixtureRequest, folder: Path) -> Callable[[RewardContext], Reward]:
        options: dict[str, Any] = {"model": str(folder) if request.param not in EMBEDDED else request.param}
        if request.param == "sum":
            options["reduce"] = "sum"
        if request.param == "scored":
            options["prompt"] = "scored"
        return functools.partial(perplexity, **options)


def test_mean_and_sum(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    mean, total = create(f"perplexity:model={folder}").score(TEXTS), create(f"perplexity:model={folder},reduce=sum").score(TEXTS)
    for index, text in enumerate(TEXTS):
        if text:
            found = expected(model, text)
            assert mean[index].item() == pytest.approx(found.mean().item(), abs=1e-5)
            assert total[index].item() == pytest.approx(found.sum().item(), abs=1e-4)


def test_a_text_without_tokens_is_worth_one_blind_draw(folder: Path) -> None:
    blind = -math.log(len(WORDS))
    for spec in (f"perplexity:model={folder}", f"perplexity:model={folder},reduce=sum"):
        assert create(spec).score(["", " \n", Text("the book", "the book")]).tolist() == pytest.approx([blind] * 3)


def test_prompt_is_given_or_scored_or_left_out(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    text, rest = Text("the book was red", "the book"), "was red"
    whole = expected(model, text)
    values = {
        "": whole[2:].mean(),
        ",prompt=given": whole[2:].mean(),
        ",prompt=scored": whole.mean(),
        ",part=continuation": expected(model, rest).mean(),
        ",part=continuation,prompt=scored": expected(model, rest).mean(),
    }
    for option, value in values.items():
        reward = load_plugins().create(f"perplexity:model={folder}{option}", OFFLINE).reward
        assert torch.as_tensor(reward.score([text])).item() == pytest.approx(value.item(), abs=1e-5), option
    assert len({round(value.item(), 4) for value in values.values()}) == 3


def test_a_prompt_whose_end_joins_what_follows() -> None:
    """The token that holds both is no token of the prompt's own: it is scored."""
    reward = create("perplexity:model=heldout-causal,reduce=sum")
    joined, apart = Text("the bookshelf", "the book"), Text("the bookshelf", "the")
    assert reward.judge.encode(["the book"])[0] != reward.judge.encode(["the bookshelf"])[0][:2]
    assert reward.score([joined]).item() == reward.score([apart]).item()


def test_without_a_first_token_the_first_word_does_not_count(tmp_path: Path) -> None:
    model = gpt2(tmp_path)
    reward = create(f"perplexity:model={tmp_path}")
    assert not reward.judge.begins
    found = reward.score(["the book was red", Text("the book was red", "the"), Text("the book was red", "the book"), "a"])
    whole = expected(model, "the book was red", bos=False)
    want = [whole.mean().item(), whole.mean().item(), whole[1:].mean().item(), -math.log(len(WORDS))]
    assert found.tolist() == pytest.approx(want, abs=1e-5)
    assert reward.tokens(["the book was red", "a"]) == [3, 1]


@pytest.mark.parametrize("stride", [1, 5, 8, 15])
def test_stride_over_long_texts(folder: Path, stride: int) -> None:
    """Each token is scored once, with no more than the model's length and no less context than that minus the stride."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    words = [WORDS[3 + index * index % 11] for index in range(61)]
    ids = [0, *map(WORDS.index, words)]
    parts, done = [expected(model, " ".join(words[: LENGTH - 1]))], LENGTH
    while done < len(ids):
        last = min(done + stride, len(ids))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[last - LENGTH : last]])).logits[0, :-1].double().log_softmax(-1)
        parts.append(logits.gather(1, torch.tensor(ids[last - LENGTH + 1 : last])[:, None])[-(last - done) :, 0])
        done = last
    whole = torch.cat(parts)
    assert len(whole) == len(words)
    reward = create(f"perplexity:model={folder},reduce=sum,stride={stride}")
    values = reward.score([" ".join(words), "the book", " ".join(words[: LENGTH - 1])])
    assert values[0].item() == pytest.approx(whole.sum().item(), abs=1e-3)
    # a text that fits is one pass, whatever the stride
    assert values[1:].tolist() == pytest.approx(
        [expected(model, text).sum().item() for text in ("the book", " ".join(words[:15]))], abs=1e-4
    )


def test_default_stride_is_half(folder: Path) -> None:
    text = " ".join(WORDS[3 + index % 7] for index in range(50))
    half = create(f"perplexity:model={folder},stride={LENGTH // 2}").score([text])
    assert create(f"perplexity:model={folder}").score([text]).item() == pytest.approx(half.item(), abs=1e-6)


def test_batches_padding_and_order_change_nothing(folder: Path) -> None:
    singles = torch.cat([create(f"perplexity:model={folder}").score([text]) for text in TEXTS])
    for size in (1, 2, 64):
        reward = create(f"perplexity:model={folder}", RewardContext(offline=True, batch_size=size))
        torch.testing.assert_close(reward.score(TEXTS), singles, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(reward.score(TEXTS[::-1]).flip(0), singles, atol=1e-5, rtol=1e-5)


def test_few_logits_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = create(f"perplexity:model={folder}", RewardContext(offline=True, batch_size=64))
    whole = reward.score(TEXTS)
    sizes: list[int] = []
    forward = reward.judge._forward  # type: ignore[attr-defined]
    monkeypatch.setattr(reward.judge, "_forward", lambda rows, width: sizes.append(len(rows)) or forward(rows, width))
    monkeypatch.setattr("fktext_plugins.causal.LOGITS", 2 * 16 * len(WORDS))
    torch.testing.assert_close(reward.score(TEXTS), whole, atol=1e-5, rtol=1e-5)
    assert max(sizes) == 2


def test_out_of_memory_halves_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = create(f"perplexity:model={folder}", RewardContext(offline=True, batch_size=64))
    whole = reward.score(TEXTS)
    forward = reward.judge._forward  # type: ignore[attr-defined]

    def small(rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return forward(rows, width)

    monkeypatch.setattr(reward.judge, "_forward", small)
    torch.testing.assert_close(reward.score(TEXTS), whole, atol=1e-5, rtol=1e-5)


def test_tokens_go_straight_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of a model with the same tokens is not encoded; one with other tokens is."""
    reward = create(f"perplexity:model={folder}")
    digest = vocabulary_digest({word: index for index, word in enumerate(WORDS)})
    assert reward.judge.token_digest == digest
    ids = [tuple(map(WORDS.index, text.split())) for text in TEXTS]
    own = [Text(text, tokens=Tokens(row, 0, digest)) for text, row in zip(TEXTS, ids, strict=True)]
    other = [Text(text, tokens=Tokens((3,) * len(row), 0, "another")) for text, row in zip(TEXTS, ids, strict=True)]
    plain = reward.score(TEXTS)
    torch.testing.assert_close(reward.score(other), plain, atol=1e-6, rtol=0)
    prompted = [Text("the book was red", "the book"), Text("the book was red", "the book", Tokens(ids[0], 2, digest))]
    assert len(set(reward.score(prompted).tolist())) == 1
    asked: list[str] = []
    encode = reward.judge.encode
    monkeypatch.setattr(reward.judge, "encode", lambda texts: asked.extend(texts) or encode(texts))
    torch.testing.assert_close(reward.score(own), plain, atol=1e-6, rtol=0)
    assert asked == []


def test_one_string_in_other_tokens_is_another_sample(folder: Path) -> None:
    """Where a model spelled a word in other pieces, the value is that of the pieces; the memo keeps the two apart."""
    reward = create(f"perplexity:model={folder}")
    digest = reward.judge.token_digest
    one = Text("the book", tokens=Tokens((WORDS.index("the"), WORDS.index("book")), 0, digest))
    two = Text("the book", tokens=Tokens((WORDS.index("book"), WORDS.index("the")), 0, digest))
    scorer = Scorer([Weighted("perplexity", reward)])
    values = scorer([one, two, one])[:, 0].tolist()
    assert values[0] == values[2] != values[1]
    assert scorer([two, one])[:, 0].tolist() == values[1::-1]
    assert scorer.ledger.reward_calls == 2
    string = Scorer([Weighted("perplexity", create(f"perplexity:model={folder},tokens=text"))])
    assert len(set(string([one, two])[:, 0].tolist())) == 1
    assert string.ledger.reward_calls == 1
    windowed = load_plugins().create(f"perplexity:model={folder},empty=-9", OFFLINE)
    assert Scorer([windowed])([one, two])[:, 0].tolist() == pytest.approx(values[:2])


def test_generated_texts_carry_their_tokens() -> None:
    from fktext import models

    model = models.load("tiny-mdlm", offline=True)
    reward = create("perplexity")
    assert model.vocabulary == reward.judge.token_digest
    ids = model.tokenizer.encode("the book is on the table.").ids
    pieces = [model.tokenizer.token_to_id(piece) for piece in ("[CLS]", "the", "book", "giant", "##s", "[SEP]", "[PAD]", "[PAD]")]
    (plain,) = model.decode(torch.tensor([ids]), "the book")
    (odd,) = model.decode(torch.tensor([pieces]), "the book")
    assert plain.tokens == Tokens(tuple(ids[1:-1]), 2, model.vocabulary)
    assert odd.tokens == Tokens(tuple(pieces[1:5]), 2, model.vocabulary)
    # equal where the tokenizer writes the text as the model did; else the model's own spelling counts
    assert reward.score([plain]).item() == reward.score([Text(plain, "the book")]).item()
    assert odd == "the book giants"
    assert reward.score([odd]).item() != reward.score([Text(odd, "the book")]).item()


def test_a_bert_must_be_a_decoder(tmp_path: Path) -> None:
    sizes = {"vocab_size": len(WORDS), "max_position_embeddings": LENGTH, "initializer_range": 0.5}
    for decoder in (True, False):
        path = tmp_path / str(decoder)
        save_tokenizer(path, cls_token="<s>", pad_token="<pad>")
        tiny.network("BertLMHeadModel", path, is_decoder=decoder, **sizes)
    model = BertLMHeadModel.from_pretrained(tmp_path / "True").eval()
    found = create(f"perplexity:model={tmp_path / 'True'}").score(["the book was red"])  # begins with its cls_token
    assert found.item() == pytest.approx(expected(model, "the book was red").mean().item(), abs=1e-5)
    with pytest.raises(ModelError, match=r"looks ahead: it is no causal language model .*is_decoder"):
        create(f"perplexity:model={tmp_path / 'False'}")


def test_int8_folders_load(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, bos_token="<s>")
    sizes = {"vocab_size": len(WORDS), "max_position_embeddings": LENGTH, "hidden_size": 32, "initializer_range": 0.3}
    tiny.network("LlamaForCausalLM", tmp_path, **sizes)
    before = create(f"perplexity:model={tmp_path}")
    digest = before.digest
    save_file(quantised(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors", {"format": "pt"})
    after = create(f"perplexity:model={tmp_path}")
    assert digest != after.digest
    assert after.score(TEXTS).tolist() == pytest.approx(before.score(TEXTS).tolist(), abs=0.1)


def test_wrong_options(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'tiny-causal'"):
        create("perplexity:model=tiny-casual")
    with pytest.raises(UsageError, match=f"stride came as {LENGTH}: .* takes strides of 1 to {LENGTH - 1} tokens"):
        create(f"perplexity:model={folder},stride={LENGTH}")
    with pytest.raises(UsageError, match="stride came as 4: heldout-causal takes texts of any length"):
        create("perplexity:model=heldout-causal,stride=4")
    with pytest.raises(UsageError, match="reduce"):
        create("perplexity:reduce=median")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match="cannot load the causal language model"):
        create(f"perplexity:model={tmp_path}")


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    model = gpt2(tmp_path, bos_token="<s>")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict() | {"extra": tiny.Code(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle of more than tensors; nothing was executed"):
        create(f"perplexity:model={tmp_path}")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists()  # the bait is real


def test_hub_ids_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("gpt2", "EleutherAI/pythia-70m"):
        with pytest.raises(ModelError, match=f"cannot load the causal language model '{name}' .the run is offline: only folders"):
            create(f"perplexity:model={name}")


def test_goal_and_provenance() -> None:
    term = load_plugins().create("perplexity:model=heldout-causal,reduce=sum", OFFLINE)
    assert term.reward.goal == "towards likely text: log p by heldout-causal"  # type: ignore[attr-defined]
    assert create("perplexity").goal == "towards likely text: log p per token by tiny-causal"
    told = term.provenance()
    assert told["model"] == "heldout-causal"
    assert len(told["digest"]) == 16


@pytest.mark.parametrize("model", EMBEDDED)
def test_embedded_models_prefer_english(model: str) -> None:
    reward = create(f"perplexity:model={model}")
    good = ["The book is on the table.", "She was very happy to see him again.", "I do not know what you want."]
    shuffled = ["table the on is book the.", "him happy to again was see very she.", "want what not know you do i."]
    random = ["lamp however seven quickly of.", "under because orange nine went table.", "why green seldom he spoon at."]
    values = [reward.score(group).mean().item() for group in (good, shuffled, random)]
    assert values[0] > max(values[1:]) + 1.5


def test_embedded_models_are_small_and_independent() -> None:
    for name, limit in zip(EMBEDDED, (11e6, 6e6), strict=True):
        folder = embedded.path(name)
        assert sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".md") <= limit
        assert "CC BY-SA 4.0" in (folder / "MODEL_CARD.md").read_text()
    digests = [create(f"perplexity:model={name}").judge.token_digest for name in EMBEDDED]
    assert digests[0] != digests[1]
