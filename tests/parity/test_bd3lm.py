"""BD3-LM's network, its sampler and its checkpoints against the outputs of the reference implementation (float32, CPU)."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import fktext
import tiny
from fktext.errors import ModelError, UsageError
from fktext.masked import dit
from fktext.masked.blocks import BlockModel, blocks
from fktext.masked.cache import Cached
from fktext.masked.sampling import token_probs
from fktext.masked.strides import Strides
from fktext.models import load
from fktext.models.facts import facts
from fktext.settings import Settings, TextRun
from fktext.smc import noise as streams
from fktext.smc.noise import Noise
from fktext.testing.model_check import run as run_checks
from fktext.texts.templates import Template
from fktext_cli import app

GOLDEN = Path(__file__).parent / "golden"
BLOCK, MASK, BOS, LENGTH = 4, 100, 99, 24
FORBIDDEN = torch.tensor([MASK])
DECODE = json.loads((GOLDEN / "bd3lm_decode.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.golden("bd3lm", tmp_path / "bd3lm_tiny")


@pytest.fixture
def model(folder: Path) -> BlockModel:
    found = load(str(folder))
    assert isinstance(found, BlockModel)
    return found


@pytest.fixture(params=[False, True], ids=["", "remembered"])
def either(request: pytest.FixtureRequest, model: BlockModel) -> BlockModel:
    """The model as it is, and with a network that remembers finished blocks."""
    return replace(model, denoiser=Cached(model.denoiser, BLOCK)) if request.param else model  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "bd3lm_tiny.io.safetensors")


@pytest.fixture(scope="module")
def decoded() -> dict[str, Tensor]:
    return load_file(GOLDEN / "bd3lm_decode.safetensors")


def last_block(model: BlockModel, ids: Tensor) -> Tensor:
    """Logits (R, BLOCK, V) of the last block."""
    hidden = model.denoiser.encode(ids, torch.ones(len(ids)))[:, -BLOCK:]  # type: ignore[attr-defined]
    return model.denoiser.logits(hidden.flatten(0, 1)).view(len(ids), BLOCK, -1)  # type: ignore[attr-defined]


def block_by_block(model: BlockModel, io: dict[str, Tensor]) -> Tensor:
    """Logits of each noisy block after the clean ones before it."""
    rows = (torch.cat([io["clean"][:, :at], io["noisy"][:, at : at + BLOCK]], 1) for at in range(0, LENGTH, BLOCK))
    return torch.cat([last_block(model, ids) for ids in rows], 1)


def test_logits(either: BlockModel, io: dict[str, Tensor]) -> None:
    out = block_by_block(either, io)
    torch.testing.assert_close(out, io["raw_logits"], atol=2e-5, rtol=0)  # of all blocks in one pass of [noisy ; clean]
    torch.testing.assert_close(out, io["raw_logits_cached"], atol=2e-5, rtol=0)
    masked = io["noisy"] == MASK
    probs = token_probs(out[masked], FORBIDDEN)
    torch.testing.assert_close(probs.log()[:, :MASK], io["log_probs"][masked][:, :MASK], atol=2e-5, rtol=0)


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def shifted_border(length: int) -> Tensor:
    block = (torch.arange(length) + 1) // BLOCK
    return block[:, None] >= block


@pytest.mark.parametrize("seen", [causal, shifted_border, lambda length: None])
def test_another_mask_is_noticed(
    seen: Callable[[int], Tensor | None], model: BlockModel, io: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.denoiser, "_seen", seen)
    assert (block_by_block(model, io) - io["raw_logits"]).abs().max() > 0.1


def test_a_causal_pass_over_finished_blocks_is_noticed(
    model: BlockModel, io: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.denoiser, "_seen", causal)
    cached = replace(model, denoiser=Cached(model.denoiser, BLOCK))  # type: ignore[arg-type]
    ids = torch.cat([io["clean"][:, :8], io["noisy"][:, 8:12]], 1)
    last_block(cached, ids)  # leaves the blocks before
    assert (last_block(cached, ids) - io["raw_logits"][:, 8:12]).abs().max() > 0.1


def test_a_live_noise_level_is_noticed(model: BlockModel, io: dict[str, Tensor]) -> None:
    model.denoiser.time_dependent = True  # type: ignore[attr-defined]
    assert (block_by_block(model, io) - io["raw_logits"]).abs().max() > 1e-2


def test_a_position_sees_its_block_and_none_behind_it(model: BlockModel, io: dict[str, Tensor]) -> None:
    def hidden(ids: Tensor) -> Tensor:
        return model.denoiser.encode(ids, torch.ones(2))  # type: ignore[attr-defined,no-any-return]

    ids, other = io["clean"], io["clean"].clone()
    other[:, 7] = (other[:, 7] + 1) % BOS
    changed = (hidden(ids) - hidden(other)).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 20


def test_one_step_of_the_kernel(model: BlockModel, io: dict[str, Tensor]) -> None:
    """The reference's q(x_s | x_t) of the last block, s > 0: (1 - s/t) p(x0), and s/t for the mask."""
    ids = io["x_t"]
    masked = ids[:, -BLOCK:] == MASK
    probs = token_probs(last_block(model, ids).flatten(0, 1), FORBIDDEN).view(2, BLOCK, -1).double()
    for index, (t, s) in enumerate(io["ts"].tolist()):
        law = probs * (1 - s / t)
        law[..., MASK] = s / t
        torch.testing.assert_close(law[masked], io[f"ddpm.1.0.{index}.q"][masked], atol=1e-6, rtol=0)
    assert "ddpm.0.9.0.q" in io  # its nucleus has another rule than ours: see test_first_hitting_trajectories_are_replayed


class Recorded:
    """The golden file's uniforms of a block in the place of noise."""

    def __init__(self, reveal: Tensor, token: Tensor, number: int) -> None:
        self.steps = steps = reveal.shape[1]
        chance = 1 / torch.arange(steps, 0, -1)  # 1 - s/t of each step
        first = (reveal[number] < chance[:, None]).double().argmax(0)
        self.when, self.token, self.begin = 1 - (first + 0.5) / steps, token[number], number * BLOCK

    def uniform(self, stream: int, step: Tensor | int, position: Tensor, rows: Tensor | None = None) -> Tensor:
        if stream == streams.REVEAL:
            return self.when[(position - self.begin).clamp(min=0)][None]
        assert stream == streams.TOKEN
        return self.token[step - 1, position - self.begin]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_ancestral_trajectories_are_replayed(
    index: int, cached: bool, model: BlockModel, decoded: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, steps = f"ancestral.{index}", DECODE["ancestral_steps"]
    reveal, token, states = (decoded[f"{name}.{part}"] for part in ("u_reveal", "u_token", "states"))
    monkeypatch.setattr(Strides, "_noise", lambda self, noise, number: Recorded(reveal, token, number))
    run = model.resolve(Settings(method="base", particles=1, length=12, steps=steps, kernel="ancestral"))
    process = replace(model, cached=cached).process([""], [model.template("", 12)], run, 8)
    noise = Noise.of([0], 1)
    state = process.init(noise)
    assert process.num_steps == len(states) == 18
    for k in range(process.num_steps):
        state = process.advance(state, k, k + 1, noise)
        assert torch.equal(state.ids[0], states[k])
    assert torch.equal(state.ids[0], decoded[name])
    assert process.ledger.denoiser_rows <= 11  # one for each token at most
    assert (process.ledger.cached_positions > 0) == cached


def short_nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The reference's rule: tokens whose running sum is within top_p, and the first; one fewer than ours."""
    ordered, order = probs.sort(-1, descending=True)
    keep = ordered.cumsum(-1) <= top_p
    keep[..., 0] = True
    kept = (ordered * keep).scatter(-1, order, ordered * keep)
    return kept / kept.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", ["first_hitting.0", "first_hitting.1", "first_hitting_nucleus_cache.0"])
def test_first_hitting_trajectories_are_replayed(name: str, either: BlockModel, decoded: dict[str, Tensor]) -> None:
    """Its Gumbel race over our predictions gives its every token, also where the text outgrows the context.

    Left out is the run that outgrows it over a cache: its kept keys and values still know what was forgotten, ours do not.
    """
    about, tokens = DECODE[name], decoded[name]
    updates = decoded[f"{name}.uniforms"].view(about["updates"], -1)
    ids = torch.full((1, len(tokens)), MASK)
    ids[0, 0] = BOS
    update = 0
    for columns in blocks(ids[0], MASK, BLOCK, LENGTH):
        while (places := (ids[0, columns[-BLOCK:]] == MASK).nonzero()[:, 0]).numel():
            probs = token_probs(last_block(either, ids[:, columns])[0], FORBIDDEN).double()
            probs = short_nucleus(probs, about["nucleus_p"]) if "nucleus_p" in about else probs
            gumbel = 1e-10 - (updates[update, 1:-1].view(BLOCK, -1) + 1e-10).log()
            place = places[int(updates[update, -1] * len(places))]
            ids[0, columns[-BLOCK:][place]] = (probs / gumbel).argmax(-1)[place]
            assert torch.equal(ids[0, columns[-BLOCK:]], decoded[f"{name}.states"][update])
            update += 1
    assert update == about["updates"]
    assert torch.equal(ids[0], tokens)


def test_models_check_notices_another_mask(model: BlockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(run_checks(model))
    assert all(row.passed for row in rows)
    assert (remembered := "a block over remembered ones is as it was") in [row.check for row in rows]
    for seen, check in (
        (lambda length: None, "and nothing of the next block"),
        (causal, "the first position sees the last of its block"),
    ):
        monkeypatch.setattr(model.denoiser, "_seen", seen)
        assert [row.check for row in run_checks(model) if not row.passed] == [check, remembered]


WRONG = [
    ({"block_size": 5}, "block_size 5 in its config.json, expected a whole number that divides its model_length 24"),
    ({"block_size": None}, "block_size None in its config.json, expected a whole number"),
    ({"block_size": "4"}, "block_size '4' in its config.json, expected a whole number"),
    ({"block_size": 48}, "block_size 48 in its config.json"),
    ({"block_size": 0}, "block_size 0 in its config.json"),
    ({"causal": True}, "causal True in its config.json; only BD3-LM with False is known"),
    ({"time_conditioning": True}, "time_conditioning True in its config.json; only BD3-LM with False is known"),
    ({"adaln": False}, "adaln False in its config.json; only BD3-LM with True is known"),
    ({"cross_attn": False}, "cross_attn False in its config.json: only with True"),
    ({"cond_dim": 129}, "config.json says cond_dim 129, the tensors say 20"),
    ({"vocab_size": 100}, "config.json says vocab_size 100, the tensors say 101"),
    ({"n_heads": 4}, "config.json says n_heads 4, the tensors say 3"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_config_that_cannot_be(change: dict[str, object], message: str, folder: Path) -> None:
    tiny.edit(folder / "config.json", **change)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_single_block_needs_no_cross_attention(folder: Path) -> None:
    tiny.edit(folder / "config.json", cross_attn=False, block_size=24)
    assert load(str(folder)).default_length == 24


def test_a_missing_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["backbone.blocks.1.norm2.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"blocks\.1\.norm2"):
        load(str(folder))


def test_a_lightning_checkpoint_keeps_its_blocks(folder: Path) -> None:
    model = {"hidden_size": 48, "length": 24, "cond_dim": 20, "n_blocks": 2, "n_heads": 3}
    config = {"algo": {"name": "bd3lm"}, "model": model, "block_size": 4}
    saved, network = load_file(folder / "model.safetensors"), dit.DiT(101, 48, 2, 3, 20)
    tensors = {f"backbone.{name}": saved[f"backbone.{name}"] for name in network.state_dict()}  # in the order of training
    shadow = [tensors[f"backbone.{name}"] for name, _ in network.named_parameters()]
    for file in ("model.safetensors", "config.json"):
        (folder / file).unlink()
    torch.save(
        {
            "state_dict": tensors | {"sampling_eps_min": torch.tensor(1e-3)},
            "ema": {"shadow_params": shadow, "decay": 0.9999},
            "hyper_parameters": {"config": config},
        },
        folder / "last.ckpt",
    )
    found = load(str(folder))
    assert isinstance(found, BlockModel)
    assert found.block == 4
    assert found.family == "bd3lm"


def test_facts_and_defaults(folder: Path) -> None:
    known = facts(str(folder))
    assert (known.family, known.most, known.kernels[0]) == ("bd3lm", 24, "first-hitting")
    assert known.parameters == sum(parameter.numel() for parameter in load(str(folder)).denoiser.parameters())  # type: ignore[attr-defined]
    assert (known.defaults["length"], known.defaults["steps"]) == (24, 4)
    tiny.edit(folder / "config.json", fktext={"default_length": 8, "default_steps": 9})
    assert (facts(str(folder)).defaults["length"], facts(str(folder)).defaults["steps"]) == (8, 9)


def test_what_blocks_do_not_take(model: BlockModel) -> None:
    with pytest.raises(UsageError, match=r"length 10 is not a multiple of the 4 tokens that .* writes at a time: choose 8 or 12"):
        model.resolve(Settings(length=10))
    with pytest.raises(UsageError, match="writes by blocks of 4 tokens and takes no stride"):
        model.resolve(Settings(length=48, stride=8))
    with pytest.raises(UsageError, match="cannot fill a template: it writes from left to right"):
        model.template(Template("w5 {2} w6"), 12)
    with pytest.raises(UsageError, match="no learned values"):
        fktext.generate(model, "length:words=5", "w5", particles=2, length=12, look_ahead="value:fit")


class Low:
    def score(self, samples: list[str]) -> list[float]:
        return [sum(int(word[1:]) < 40 for word in sample.split() if word[1:].isdigit()) / 4 for sample in samples]


def test_a_text_of_one_block_after_a_long_prompt(model: BlockModel) -> None:
    """The prompt is run once, not for every particle and token."""
    prompt = "w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15"
    (found,) = fktext.generate(model, Low(), prompt, particles=8, length=16, lam=2.0, seed=3)
    (without,) = fktext.generate(replace(model, cached=False), Low(), prompt, particles=8, length=16, lam=2.0, seed=3)
    assert found.texts == without.texts
    assert found.ledger.cached_positions == 12 * (found.ledger.denoiser_rows - 1)
    assert found.ledger.denoiser_rows == without.ledger.denoiser_rows > 8


def test_texts_longer_than_the_network_are_steered(folder: Path) -> None:
    """Two windows' worth of text, at no more network rows than tokens, and the reward is raised."""

    def mean(method: str) -> float:
        found = fktext.generate(str(folder), Low(), "w5 w6", particles=8, samples=6, length=48, method=method, lam=4.0, seed=1)
        for population in found:
            assert population.ledger.denoiser_rows <= 8 * 45  # with one row for each token, prompt and BOS aside
            assert all(text.startswith("w5 w6") for text in population.texts)
        return sum(float(population.rewards.max()) for population in found) / len(found)

    assert mean("base") < mean("fk")


def test_the_command_line_steers_it(folder: Path) -> None:
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"})

    def call(*options: object) -> Result:
        arguments = ["generate", "w5 w6", "--model", folder, "--seed", 1, *options]
        return runner.invoke(app, [str(item) for item in arguments], prog_name="fktext")

    done = call("-r", "keywords:words=w1+w2+w3", "-n", 4, "--length", 48)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("w5 w6 ")
    assert "length 48 is beyond the model's 24 tokens: the oldest blocks are forgotten" in done.stderr
    wrong = call("-r", "length:words=5", "--length", 10)
    assert wrong.exit_code == 2
    assert wrong.stdout == ""
    assert wrong.stderr.strip().splitlines()[-1].endswith("choose 8 or 12")


def test_a_run_counts_the_steps_of_its_blocks(model: BlockModel) -> None:
    run = model.resolve(Settings(length=16, steps=5))
    assert isinstance(run, TextRun)
    assert run.stride is None
    assert model.num_steps(model.template("w5 w6 w7", 16), run) == 3 * 5  # BOS and prompt fill the first block
    assert model.num_steps(model.template("w5 w6", 16), run) == 4 * 5


@pytest.mark.parametrize(("length", "method"), [(24, "fk"), (32, "fk"), (24, "particle-gibbs")])
def test_texts_do_not_depend_on_what_is_remembered(model: BlockModel, length: int, method: str) -> None:
    """Steered, with prompts of unequal lengths, texts beyond the context, and sweeps that begin anew."""
    settings = {"method": method, "particles": 4, "length": length, "lam": 2.0, "seed": 3, "sweeps": 2, "resample_every": 2}
    with_, without, few = (
        list(fktext.generate(each, Low(), ["w5", "w5 w6 w7", "w5 w6 w7 w8 w9"], batch_size=size, **settings))  # type: ignore[arg-type]
        for each, size in ((model, 64), (replace(model, cached=False), 64), (model, 3))
    )
    assert [population.texts for population in with_] == [population.texts for population in without]
    assert [population.texts for population in with_] == [population.texts for population in few]
    assert all(population.ledger.cached_positions > 0 for population in with_)
    assert all(population.ledger.cached_positions == 0 for population in without)
    for one, other in zip(with_, without, strict=True):
        assert one.ledger.denoiser_rows == other.ledger.denoiser_rows
