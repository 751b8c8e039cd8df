"""Blocks over texts: where they lie, what they cost, and what ends them."""

import pytest
import torch

from fktext.masked.blocks import blocks
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.process import MaskedDiffusion
from fktext.masked.strides import Strides
from fktext.smc.noise import Noise, population_key
from fktext.text import Text

MASK, BLOCK = 3, 4


class Network:
    """Say nothing but noise of a row's own tokens, and count what is asked."""

    mask_id, vocab_size, max_length, time_dependent = MASK, MASK + 1, 12, False
    device = torch.device("cpu")

    def __init__(self):
        self.widths = []

    def encode(self, ids, t):
        self.widths += [ids.shape[1]] * len(ids)
        return torch.randn(*ids.shape, MASK + 1, generator=torch.Generator().manual_seed(int(ids.sum())))

    def logits(self, hidden):
        return hidden


def decode(ids, population):
    return [Text("".join(map(str, row))) for row in ids.tolist()]


def make(kernel=MaskedDiffusion, steps=5, particles=6, prompt=(), length=16, endings=(), context=12):
    template = torch.tensor([*prompt, *[MASK] * (length - len(prompt))])
    columns = blocks(template, MASK, BLOCK, context)
    first = kernel(Network(), template[None, columns[0]], particles, steps, decode)
    return Strides(first, template[None], columns, particles, decode, endings=endings)


def run(process, particles=6):
    noise, states = Noise.of([population_key(0, "blocks")], particles), []
    state = process.init(noise)
    for k in range(process.num_steps):
        state = process.advance(state, k, k + 1, noise)
        states.append(state.ids)
    return states


def columns(length, prompt=0, block=4, context=12):
    template = torch.tensor([0] * prompt + [MASK] * (length - prompt))
    return [(part[0].item(), part[-1].item() + 1) for part in blocks(template, MASK, block, context)]


def test_where_blocks_lie():
    assert columns(12) == [(0, 4), (0, 8), (0, 12)]
    assert columns(12, prompt=3) == columns(12)  # the prompt's end shares a block
    assert columns(12, prompt=4) == columns(12)[1:]
    assert columns(20) == [(0, 4), (0, 8), (0, 12), (4, 16), (8, 20)]
    assert columns(20, context=11) == [(0, 4), (0, 8), (4, 12), (8, 16), (12, 20)]  # only whole blocks are seen
    assert columns(12, block=12) == [(0, 12)]
    for wrong in ({"length": 10}, {"length": 12, "block": 0}, {"length": 16, "block": 16}):
        with pytest.raises(ValueError, match="do not fit a text"):
            columns(**wrong)


@pytest.mark.parametrize(("kernel", "steps", "most"), [(MaskedDiffusion, 2, 2), (MaskedDiffusion, 50, 4), (FirstHitting, 2, 4)])
def test_a_block_costs_at_most_a_row_for_each_step_or_token(kernel, steps, most):
    process = make(kernel, steps)
    states = run(process)
    rows = process.ledger.denoiser_rows
    assert process.num_steps == 4 * steps == len(states)
    assert 0 < rows <= 4 * most * 6
    assert process.ledger.head_positions == 6 * 16  # the head runs where a token is drawn, once for each
    assert len(process.process.denoiser.widths) == rows


def test_a_prompt_in_the_block_leaves_fewer_rows():
    process = make(FirstHitting, prompt=(0, 1, 2, 0, 1, 2))
    assert all((ids[:, :6] == torch.tensor([0, 1, 2, 0, 1, 2])).all() for ids in run(process))
    assert process.ledger.denoiser_rows <= 6 * 10
    assert process.num_steps == 3 * 5


def test_blocks_are_finished_in_order():
    for k, ids in enumerate(run(make()), 1):
        done, inside = divmod(k, 5)
        assert (ids[:, : 4 * done] != MASK).all()
        assert (ids[:, 4 * (done + (inside > 0)) :] == MASK).all()


def test_nothing_is_computed_behind_an_end():
    process = make(endings=(2,), particles=40)
    ids = run(process, 40)[-1]
    ends = ((ids == 2) | (torch.arange(16) == 15)).double().argmax(1)
    blocks_written = ends // BLOCK + 1
    assert 40 < blocks_written.sum() < 4 * 40
    for row, count in zip(ids, blocks_written, strict=True):
        assert (row[BLOCK * count :] == 2).all()
    assert process.ledger.head_positions == BLOCK * blocks_written.sum()
