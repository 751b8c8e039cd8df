"""The n-gram model against a plain recursion, and damaged files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from fktext import embedded
from fktext.errors import ModelError
from fktext_plugins.backoff import BackoffJudge, BackoffLM, Order

# over words 0, 1, 2: log p and back-off of n-grams that are held
HELD = {
    (0,): (-2.0, -0.5),
    (1,): (-1.0, -0.25),
    (2,): (-0.7, 0.0),
    (0, 1): (-0.4, -0.1),
    (0, 2): (-1.2, 0.0),
    (1, 1): (-0.9, -0.3),
    (0, 1, 2): (-0.2, 0.0),
    (1, 1, 0): (-0.6, 0.0),
    (1, 1, 1): (-0.8, 0.0),
}


def naive(history: tuple[int, ...], word: int) -> float:
    """log p by the definition of back-off."""
    if (*history, word) in HELD:
        return HELD[(*history, word)][0]
    return HELD.get(history, (0.0, 0.0))[1] + naive(history[1:], word)


def orders(longest: int) -> list[Order]:
    found = []
    for n in range(1, longest + 1):
        grams = sorted(gram for gram in HELD if len(gram) == n)
        children = [sum(len(other) == n + 1 and other[:n] == gram for other in HELD) if n < longest else 0 for gram in grams]
        found.append(
            Order(
                torch.tensor([gram[-1] for gram in grams]),
                torch.tensor([HELD[gram][0] for gram in grams]),
                torch.tensor(children),
                torch.tensor([HELD[gram][1] if number else 0.0 for gram, number in zip(grams, children, strict=True)]),
            )
        )
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_equals_the_recursion(length: int) -> None:
    model = BackoffLM(orders(3))
    rows = list(itertools.product(range(3), repeat=length))
    ids = torch.tensor(rows).flatten()
    first = torch.zeros(len(rows), length, dtype=torch.bool)
    first[:, 0] = True
    found = model.log_probs(ids, first.flatten()).view(len(rows), length)
    for row, values in zip(rows, found.tolist(), strict=True):
        want = [naive(row[max(0, place - 2) : place], row[place]) for place in range(length)]
        assert values == pytest.approx(want, abs=1e-6), row


def test_sizes_that_do_not_fit() -> None:
    whole = orders(3)
    with pytest.raises(ModelError, match="3 n-grams have 2 places: the model is damaged"):
        BackoffLM([whole[0], Order(whole[1].words, whole[1].log_p, torch.tensor([1, 0, 1]), whole[1].log_backoff), whole[2]])


@pytest.mark.parametrize("name", ["tiny-causal", "heldout-causal"])
def test_embedded_probabilities_add_up(name: str) -> None:
    judge = BackoffJudge.load(embedded.path(name))
    for text in ("", "the", "once upon a", "the book is on", "zebra lamp"):
        (history,) = judge.encode([text])
        rows = [[*history, word] for word in range(judge.vocabulary)]
        log_p = torch.stack([found[-1] for found in judge.log_probs(rows)])
        assert log_p.logsumexp(0).item() == pytest.approx(0.0, abs=0.02), text  # they are kept in tables of 256 values


def test_damaged_folders(tmp_path: Path) -> None:
    source = embedded.path("heldout-causal")
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded as an n-gram model"):
        BackoffLM.load(tmp_path)
    tensors = load_file(source / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != "2.words"}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be loaded as an n-gram model: KeyError: '2.words'"):
        BackoffLM.load(tmp_path)
    save_file(tensors | {"2.words": tensors["2.words"][:-1], "2.log_p": tensors["2.log_p"][:-1]}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError):
        BackoffLM.load(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be loaded"):
        BackoffJudge.load(tmp_path)
    Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="the tokenizer has 2 tokens and a '<s>', but the n-grams are of 6000"):
        BackoffJudge.load(tmp_path)


def test_no_rows_and_long_rows() -> None:
    judge = BackoffJudge.load(embedded.path("heldout-causal"))
    assert judge.log_probs([]) == []
    (found,) = judge.log_probs([judge.encode(["word " * 5000])[0]])
    assert len(found) >= 5000
    assert math.isfinite(found.sum().item())
