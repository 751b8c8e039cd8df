"""The gradient of a judge as scores of tokens."""

import pytest
import torch

from fktext.errors import UsageError
from fktext.masked.straight_through import StraightThrough
from fktext.rewards import TokenGradient

MASK, END, BOS = 6, 5, 4  # of a model whose tokens 0 to 3 are a, b, c and d
TOKENS = {"a": 0, "b": 1, "c": 2, "d": 3}


class Certain:
    """A denoiser to which position i is most likely to be the i-th of some tokens."""

    mask_id, vocab_size, device, time_dependent = MASK, 7, "cpu", False

    def __init__(self, likely):
        self.likely = torch.nn.functional.one_hot(torch.tensor(likely), 7).float()

    def encode(self, ids, t):
        return self.likely.expand(len(ids), -1, -1)

    def logits(self, hidden):
        return hidden


def linear(vocabulary, seed):
    """A judge whose value is linear in the embedding of each position, so that its first order is all there is."""
    rng = torch.Generator().manual_seed(seed)
    embeddings, slopes = torch.randn(5, 3, generator=rng), torch.randn(6, 3, generator=rng)
    return TokenGradient(vocabulary, embeddings, lambda embedded, here: (embedded * slopes * here[..., None]).sum((1, 2)))


def test_scores_are_what_a_token_in_that_place_would_change():
    judges = [linear({"a": 3, "b": 0, "c": 1, "x": 2}, 1), linear({"b": 4, "c": 2}, 2)]
    scores = StraightThrough(Certain([0, 1, 2, 0, END, 2]), judges, [2.0, -1.0], 3.0, TOKENS, [END])
    with torch.inference_mode():  # as the process asks
        slopes = scores.slopes(torch.tensor([[BOS, MASK, 1, MASK, MASK, MASK]]), torch.ones(1))
        found = scores.scores(slopes[0])
    assert found.shape == (6, 7)
    for place, token in ((1, 1), (2, 1), (3, 0)):  # what stands there: b by the guess, b, a by the guess
        for other, spelling in enumerate("abcd"):
            change = torch.zeros(())
            for judge, factor in zip(judges, (6.0, -3.0), strict=True):
                mean, known = judge.embeddings.mean(0), judge.vocabulary
                here = judge.embeddings[known["abcd"[token]]] if "abcd"[token] in known else mean
                row = torch.zeros(1, 6, 3)
                row[0, place] = judge.embeddings[known[spelling]] - here if spelling in known else 0
                change = change + factor * judge.value(row, torch.ones(1, 6, dtype=torch.bool))[0]
            torch.testing.assert_close(found[place, other], change)
    assert (found[1, 0] != 0, found[1, 3] == 0) == (True, True)  # no judge knows d
    assert (found[[0, 4, 5]] == 0).all()  # BOS, the end that is guessed and what is behind it are no text
    assert (found[:, 4:] == 0).all()


def test_a_judge_of_other_tokens_is_refused():
    with pytest.raises(UsageError, match="they have none in common"):
        StraightThrough(Certain([0]), [linear({"x": 0}, 1)], [1.0], 1.0, TOKENS, [END])
