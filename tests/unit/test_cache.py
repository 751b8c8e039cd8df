"""Remembered blocks: the same logits as without, each block computed once, and no more kept than what is read."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import tiny
from fktext.masked.block_llm import BlockCausalLM
from fktext.masked.blocks import blocks
from fktext.masked.cache import Cached, Extending, Past
from fktext.masked.denoiser import Denoiser, encode
from fktext.masked.dit import DiT
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.process import MaskedDiffusion
from fktext.masked.strides import Strides
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import gather
from fktext.text import Text

BLOCK, MASK, LENGTH, LAYERS, HEADS, WIDTH = 4, 29, 32, 3, 4, 12
TOLERANCE = 3e-6
PAGE = LAYERS * 2 * HEADS * WIDTH * BLOCK * 4  # bytes of a block's keys and values in float32


@pytest.fixture(scope="module")
def net() -> DiT:
    found: DiT = tiny.dit(MASK + 1, LENGTH, hidden_dim=HEADS * WIDTH, n_blocks=LAYERS, n_heads=HEADS, block_size=BLOCK)
    for parameter in found.eval().requires_grad_(False).parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return found


@pytest.fixture(scope="module", params=["dit", "Qwen3", "Glm4Moe"])
def any_net(request: pytest.FixtureRequest, net: DiT) -> Extending:
    """Our own network, and those that transformers runs."""
    if request.param == "dit":
        return net
    sizes = {"hidden_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 16}
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "moe_intermediate_size": 32}
    more = experts | {"use_qk_norm": True} if request.param == "Glm4Moe" else {}
    model = tiny.network(f"{request.param}ForCausalLM", vocab_size=MASK + 1, initializer_range=0.15, **sizes, **more)
    return BlockCausalLM(model, MASK, BLOCK)


def rows(count: int, length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(0, MASK, (count, length), generator=torch.Generator().manual_seed(seed))


def last_masked(ids: Tensor, *shown: int) -> Tensor:
    """Mask the last block but for some of its positions."""
    out = ids.clone()
    hidden = [column for column in range(BLOCK) if column not in shown]
    out[:, [ids.shape[1] - BLOCK + column for column in hidden]] = MASK
    return out


def logits(net: Denoiser, hidden: Tensor) -> Tensor:
    return net.logits(hidden[:, -BLOCK:].flatten(0, 1))


def ask(net: Denoiser, ids: Tensor) -> Tensor:
    return net.encode(ids, torch.ones(len(ids), device=ids.device))


def growing(ids: Tensor, first: int = BLOCK) -> Iterator[Tensor]:
    """The rows as a sampler would show them: block after block, each in several states."""
    for length in range(first, ids.shape[1] + 1, BLOCK):
        for shown in ((), (1,), (0, 1), (0, 1, 3)):
            yield last_masked(ids[:, :length], *shown)


def difference(net: Denoiser, cached: Cached, ids: Tensor) -> float:
    return float((logits(net, ask(net, ids)) - logits(net, ask(cached, ids))).abs().max())


def test_logits_are_those_without_a_cache(any_net: Extending) -> None:
    cached, ids = Cached(any_net, BLOCK), rows(5)
    assert max(difference(any_net, cached, part) for part in growing(ids)) < TOLERANCE
    assert ask(cached, ids).shape == (5, BLOCK, 48)


def test_rows_that_share_their_beginning(any_net: Extending) -> None:
    """Equal rows, rows that part in the middle, unequal prompts, and a changed order: all in one call."""
    cached, ids = Cached(any_net, BLOCK), rows(6)
    ids[1], ids[2, :20], ids[3, :3] = ids[0], ids[0, :20], ids[4, :3]
    for number, part in enumerate(growing(ids, 12)):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(number))
        assert difference(any_net, cached, part[order]) < TOLERANCE
    # What is remembered at the end is what seven blocks of the six rows hold.
    assert cached.pages == len({tuple(row[:end]) for row in ids.tolist() for end in range(BLOCK, LENGTH - BLOCK + 1, BLOCK)})


def test_particles_that_are_replaced(any_net: Extending) -> None:
    """After `gather` the new particles read the blocks of their ancestors, and forgotten ones come back by computing them."""
    cached, ids = Cached(any_net, BLOCK), rows(4)
    for part in growing(ids[:, :20]):
        ask(cached, part)
    ancestors = torch.tensor([2, 2, 0, 2])
    following = torch.cat([ids[ancestors, :20], rows(4, 8, seed=1)], 1)
    for part in growing(following, 24):
        assert difference(any_net, cached, part) < TOLERANCE
    before = cached.computed
    assert difference(any_net, cached, last_masked(ids[1:2, :28])) < TOLERANCE  # nobody descends from it
    assert cached.computed - before > BLOCK


def test_each_block_is_computed_once(net: DiT) -> None:
    """A first call takes the last finished block with it, another runs on the block alone; equal beginnings count once."""
    cached, ids = Cached(net, BLOCK), rows(3)
    ids[1, :24] = ids[0, :24]
    for length, distinct in ((4, 0), (8, 2), (12, 2), (24, 2), (28, 2), (32, 3)):
        known = 8 if length == 24 else max(0, length - 2 * BLOCK)  # 24 skips two blocks
        for number, part in enumerate(growing(ids[:, :length], length)):
            before, spared = cached.computed, cached.ledger.cached_positions
            ask(cached, part)
            new = distinct * (length - BLOCK - known) if number == 0 else 0
            assert cached.computed - before == 3 * BLOCK + new
            assert cached.ledger.cached_positions - spared == 3 * (length - BLOCK) - new


def test_particles_share_memory(net: DiT) -> None:
    cached, ids = Cached(net, BLOCK), rows(8)
    ids[:, :16] = ids[0, :16]
    for part in growing(ids[:, :20], 20):
        ask(cached, part)
    assert cached.nbytes == 4 * PAGE  # a prompt, once for eight
    for part in growing(ids, 24):
        ask(cached, part)
    assert cached.nbytes == (4 + 8 * 3) * PAGE
    assert sum(tensor.untyped_storage().nbytes() for layer in cached._pools for tensor in layer) == cached.nbytes


def test_half_precision_takes_half_the_memory(net: DiT) -> None:
    half, ids = copy.deepcopy(net).bfloat16(), rows(4)
    cached, exact = Cached(half, BLOCK), Cached(net, BLOCK)
    for part in growing(ids):
        largest = logits(half, ask(half, part)).abs().max()
        assert difference(half, cached, part) < 3e-2 * largest
        ask(exact, part)
    assert cached.pages == exact.pages == 4 * 7
    assert 2 * cached.nbytes == exact.nbytes


@pytest.mark.gpu
def test_on_a_gpu(net: DiT) -> None:
    there, ids = copy.deepcopy(net).cuda(), rows(4).cuda()
    cached = Cached(there, BLOCK)
    assert max(difference(there, cached, part) for part in growing(ids)) < 1e-4
    assert cached.nbytes == 4 * 7 * PAGE
    assert {pool.device.type for layer in cached._pools for pool in layer} == {"cuda"}


def test_what_nobody_reads_is_forgotten(net: DiT) -> None:
    cached, ids = Cached(net, BLOCK), rows(8)
    for part in growing(ids[:, :16]):
        ask(cached, part)
    assert cached.pages == 8 * 3
    survivors = ids[:1, :16]
    for length in (20, 24):
        ask(cached, last_masked(torch.cat([survivors, rows(1, length - 16)], 1)))
    assert cached.pages == 5


def test_a_window_that_moves_is_computed_anew(net: DiT) -> None:
    """Where the beginning of a text is given up every position is another: no page fits, and the logits are still right."""
    cached, ids = Cached(net, BLOCK), rows(2, LENGTH + 8)
    for start in (0, 4, 8):
        window = last_masked(ids[:, start : start + LENGTH])
        before = cached.computed
        assert difference(net, cached, window) < TOLERANCE
        assert cached.computed - before == 2 * LENGTH


class Broken(Cached):
    """Keep what a block's keys and values were before it was finished: no pass after it."""

    def _add(self, keys: list[bytes], past: Past) -> None:
        past.written = [[torch.randn_like(new) * new.std() for new in layer] for layer in past.written]
        super()._add(keys, past)


def causal(net: DiT) -> DiT:
    """Give a network that prefills causally, and is right on a single block."""
    other: DiT = tiny.dit(MASK + 1, LENGTH, hidden_dim=HEADS * WIDTH, n_blocks=LAYERS, n_heads=HEADS, block_size=BLOCK)
    other.load_state_dict(net.state_dict())
    other._seen = lambda length: torch.ones(length, length, dtype=torch.bool).tril()  # type: ignore[method-assign]
    return other


def test_the_comparison_has_teeth(net: DiT) -> None:
    ids = rows(3)
    wrong = causal(net).requires_grad_(False)
    for damaged in (Cached(wrong, BLOCK), Broken(net, BLOCK)):
        ask(damaged, last_masked(ids[:, :24]))
        assert difference(net, damaged, last_masked(ids[:, :24], 1)) > 100 * TOLERANCE


def test_memory_that_ends_leaves_nothing_half_done(net: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch does not fit it is halved, and where pages do not fit they are computed when they are asked for."""
    ids, real = rows(8), net.extend

    def small(ids: Tensor, past: Past) -> Tensor:
        if len(ids) > 3:
            raise torch.OutOfMemoryError("no room")
        return real(ids, past)

    monkeypatch.setattr(net, "extend", small)
    cached = Cached(net, BLOCK)
    for part in growing(ids, 8):
        hidden, size = encode(cached, part, torch.ones(8), 8)
        assert size == 2
        assert (logits(net, hidden) - logits(net, ask(net, part))).abs().max() < TOLERANCE
    cat = torch.cat

    def failing(tensors: list[Tensor], *rest: int) -> Tensor:
        if tensors[0] is cached._pools[1][0]:  # in the middle of what is appended
            raise torch.OutOfMemoryError("no room")
        return cat(tensors, *rest)

    ids[:2, 24] = (ids[:2, 24] + 1) % MASK
    with monkeypatch.context() as patched:
        patched.setattr(torch, "cat", failing)
        with pytest.raises(torch.OutOfMemoryError):
            ask(cached, last_masked(ids[:2]))
    assert cached.pages == 0
    assert difference(net, cached, last_masked(ids[:2])) < TOLERANCE


def test_what_it_does_not_take(net: DiT) -> None:
    with pytest.raises(ValueError, match="rows of 10 tokens are not whole blocks of 4"):
        ask(Cached(net, BLOCK), rows(1, 10))
    with pytest.raises(ValueError, match="looks at the noise level"):
        Cached(tiny.dit(MASK + 1, LENGTH, time_conditioning=True), BLOCK)


def decode(ids: Tensor, population: Tensor) -> list[Text]:
    return [Text(" ".join(map(str, row))) for row in ids.tolist()]


def process(net: object, kernel: type[MaskedDiffusion], context: int = LENGTH) -> Strides:
    """Two prompts of unequal length that need the same number of blocks."""
    templates = torch.full((2, 32), MASK)
    templates[0, :5], templates[1, :7] = torch.arange(5), torch.arange(7) + 9
    columns = blocks(templates[0], MASK, BLOCK, context)
    return Strides(kernel(net, templates[:, columns[0]], 4, 3, decode), templates, columns, 4, decode)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [MaskedDiffusion, FirstHitting])
@pytest.mark.parametrize("context", [LENGTH, 16])
def test_texts_are_those_without_a_cache(net: DiT, kernel: type[MaskedDiffusion], context: int) -> None:
    """A run with resampling in the middle of blocks and between them: the same tokens, the same rows."""
    noise, found = Noise.of([population_key(0, "a"), population_key(0, "b")], 4), []
    for network in (net, Cached(net, BLOCK)):
        own = process(network, kernel, context)
        state = own.init(noise)
        for k in range(own.num_steps):
            _, state = own.predict(state, k, noise, 2)
            state = own.advance(state, k, k + 1, noise)
            if k % 4 in (1, 2):
                state = gather(state, torch.tensor([1, 1, 3, 3, 5, 4, 6, 6]))
        found.append((state.ids, own.ledger.denoiser_rows))
        assert state.window.hidden.shape[1] == (BLOCK if network is not net else context)
    assert found[0][0].equal(found[1][0])
    assert found[0][1] == found[1][1]
    assert len(found[0][0].unique(dim=0)) > 2


class Noted(Cached):
    """Note every beginning of a row that a block was written after."""

    def __init__(self, net: DiT, block: int) -> None:
        super().__init__(net, block)
        self.beginnings: set[tuple[int, ...]] = set()

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        for row in ids.tolist():
            self.beginnings |= {tuple(row[:end]) for end in range(BLOCK, len(row) - BLOCK + 1, BLOCK)}
        return super().encode(ids, t)


@pytest.mark.parametrize("kernel", [MaskedDiffusion, FirstHitting])
def test_a_run_computes_its_rows_and_each_finished_block_once(net: DiT, kernel: type[MaskedDiffusion]) -> None:
    noise, cached = Noise.of([population_key(0, "a"), population_key(0, "b")], 4), Noted(net, BLOCK)
    own = process(cached, kernel)
    state = own.init(noise)
    for k in range(own.num_steps):
        state = gather(own.advance(state, k, k + 1, noise), torch.tensor([1, 1, 3, 3, 5, 4, 6, 6]))
    rows = own.ledger.denoiser_rows
    assert cached.computed == BLOCK * (rows + len(cached.beginnings))
    blocks_of_all = 8 * len(own._columns)
    assert len(cached.beginnings) < blocks_of_all < rows < blocks_of_all * (BLOCK if kernel is FirstHitting else 3)
