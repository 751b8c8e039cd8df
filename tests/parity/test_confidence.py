"""Confidence-ordered unmasking against LLaDA's and Dream's decoding loops, on the toy network that the reference was run with."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fktext.masked.confidence import ConfidenceUnmasking
from fktext.smc.noise import Noise

GOLDEN = Path(__file__).parent / "golden"
MASK = 39


class Toy:
    """tanh of what a position and its neighbours hold, its place and the mean of all, times a head; it never predicts the mask."""

    vocab_size, mask_id, max_length, time_dependent = 40, MASK, 64, False
    device = torch.device("cpu")

    def __init__(self, golden: dict[str, Tensor]) -> None:
        self.tokens, self.places, self.head = golden["E"], golden["P"], golden["W"]

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        x = self.tokens[ids] + self.places[: ids.shape[1]]
        return torch.tanh(x + 0.6 * (x.roll(1, 1) + x.roll(-1, 1)) + 0.3 * x.mean(1, keepdim=True))

    def logits(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.head).index_fill(-1, torch.tensor([MASK]), -torch.inf)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "llm_loops.safetensors")


class Shifted(Toy):
    """The same, with the prediction for a position read one place to the left, as Dream's network is."""

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        hidden = super().encode(ids, t)
        return torch.cat([hidden[:, :1], hidden[:, :-1]], 1)


def decode(
    golden: dict[str, Tensor], steps: int, windows: tuple[int, ...] = (), toy: type[Toy] = Toy, **settings: object
) -> Tensor:
    templates = torch.cat([golden["prompt"], torch.full((2, 16), MASK)], 1)
    process = ConfidenceUnmasking(toy(golden), templates, 1, steps, lambda *_: [], **{"temperature": 0.0} | settings)
    noise = Noise.of([1, 2], 1)
    state, done = process.init(noise), 0
    for until in (*windows, steps):
        state, done = process.advance(state, done, until, noise), until
    assert process.ledger.denoiser_rows <= 2 * steps if "measure" in settings else process.ledger.denoiser_rows == 2 * steps
    return state.ids


@pytest.mark.parametrize(("block", "steps"), [(4, 16), (8, 8), (16, 8)])
def test_runs_of_the_reference_are_replayed(golden: dict[str, Tensor], block: int, steps: int) -> None:
    expected = golden[f"llada.block{block}.steps{steps}"]
    assert torch.equal(decode(golden, steps, block=block), expected)
    assert torch.equal(decode(golden, steps, (1, 5), block=block), expected)
    if block == 16:
        assert torch.equal(decode(golden, steps), expected)
    # the comparison can fail: other blocks, other texts
    assert not torch.equal(decode(golden, 16, block=2), expected)


@pytest.mark.parametrize("measure", ["maskgit-plus", "topk-margin", "entropy"])
def test_dream_is_replayed(golden: dict[str, Tensor], measure: str) -> None:
    expected = golden[f"dream.{measure.replace('-', '_')}"]
    assert torch.equal(decode(golden, 8, toy=Shifted, measure=measure), expected)
    assert torch.equal(decode(golden, 8, (3, 4), toy=Shifted, measure=measure), expected)
    # the comparison can fail: LLaDA's pace, the shift left out, other steps
    assert not torch.equal(decode(golden, 8, toy=Shifted), expected)
    assert not torch.equal(decode(golden, 8, measure=measure), expected)
    assert not torch.equal(decode(golden, 4, toy=Shifted, measure=measure), expected)


def test_dreams_measures_are_not_one(golden: dict[str, Tensor]) -> None:
    texts = [decode(golden, 4, toy=Shifted, measure=measure).tolist() for measure in ("maskgit-plus", "topk-margin", "entropy")]
    assert len({str(text) for text in texts}) > 1


def test_temperature_leaves_room_for_chance(golden: dict[str, Tensor]) -> None:
    first = decode(golden, 8, temperature=1.0)
    assert torch.equal(first, decode(golden, 8, (3,), temperature=1.0))
    assert not torch.equal(first, decode(golden, 8))
    assert torch.equal(first[:, :5], golden["prompt"])
    assert not (first == MASK).any()


def test_steps_that_do_not_divide(golden: dict[str, Tensor]) -> None:
    templates = torch.cat([golden["prompt"], torch.full((2, 16), MASK)], 1)
    process = ConfidenceUnmasking(Toy(golden), templates, 1, 6, lambda *_: [], temperature=0.0)
    noise, left = Noise.of([1, 2], 1), []
    state = process.init(noise)
    for k in range(6):
        state = process.advance(state, k, k + 1, noise)
        left.append(int((state.ids[0] == MASK).sum()))
    assert left == [13, 10, 7, 4, 2, 0]
    with pytest.raises(ValueError, match="8 steps cannot be shared out over blocks of 6"):
        decode(golden, 8, block=6)
