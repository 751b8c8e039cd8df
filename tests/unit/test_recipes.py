"""The recipes are not installed: what they promise is tested through their files."""

import json
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "recipes"
transformers = pytest.importorskip("transformers")


@pytest.fixture
def masked_lm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import masked_lm

    return masked_lm


def tiny_run(masked_lm: ModuleType, optimizer: str, seed: int = 0):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    settings = sys.modules["training"].Settings(
        optimizer, batch_tokens=64, rate=0.01, head_rate=0.02, warmup=3, average=0.9, seed=seed
    )
    return masked_lm.Run(transformers.BertForMaskedLM(config).train(), settings)


def tiny_texts(masked_lm: ModuleType, count: int = 20):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(4, 16, (count,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ids = torch.randint(5, 20, (int(offsets[-1]),), generator=generator, dtype=torch.int32)
    return masked_lm.Texts(ids, offsets, characters=3 * len(ids))


def train(masked_lm: ModuleType, run, texts, steps: int, cooldown: int):
    """Train as the recipe does."""
    order = torch.Generator().manual_seed(run.settings.seed)
    batches = masked_lm.batches(texts, run.settings.batch_tokens, 0, order)
    return run.train(batches, lambda ids, noise: masked_lm.masked_loss(run.model, ids, 0, 4, noise, 10.0), steps, cooldown)


def weights(run) -> list[torch.Tensor]:
    return [*run.model.parameters(), *run.averaged.module.parameters()]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_has_the_weights_of_the_run_that_never_stopped(masked_lm, tmp_path, optimizer):
    texts = tiny_texts(masked_lm)
    whole = tiny_run(masked_lm, optimizer)
    losses = list(train(masked_lm, whole, texts, 12, 4))
    assert 2 * len(texts.ids) < 12 * 64  # two epochs at least: the order after a resume is that of the right epoch

    stopped = tiny_run(masked_lm, optimizer)
    first = list(islice(train(masked_lm, stopped, texts, 12, 4), 7))
    stopped.save(tmp_path / "checkpoint.pt")
    resumed = tiny_run(masked_lm, optimizer)
    resumed.load(tmp_path / "checkpoint.pt")
    rest = list(train(masked_lm, resumed, texts, 12, 4))

    assert first + rest == losses
    assert (resumed.step, resumed.tokens) == (whole.step, whole.tokens) == (12, whole.tokens)
    assert all(torch.equal(one, other) for one, other in zip(weights(resumed), weights(whole), strict=True))


def test_a_checkpoint_of_other_settings_is_refused(masked_lm, tmp_path):
    tiny_run(masked_lm, "muon").save(tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit, match=r"'optimizer': 'muon'.*another --work"):
        tiny_run(masked_lm, "adamw").load(tmp_path / "checkpoint.pt")


def test_muon_moves_the_layers_matrices_and_adamw_all_else_once(masked_lm):
    run = tiny_run(masked_lm, "muon")
    muon, adamw = ([p for group in optimizer.param_groups for p in group["params"]] for optimizer in run.optimizers)
    assert len(muon) == 2 * 6  # query, key, value, output, and the two of the feed-forward layer
    assert {id(p) for p in muon} | {id(p) for p in adamw} == {id(p) for p in run.model.parameters()}
    assert len(muon) + len(adamw) == len(list(run.model.parameters()))


@pytest.mark.parametrize("shape", [(12, 12), (8, 32), (32, 8)])
def test_muons_step_is_nearly_orthogonal(masked_lm, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(sys.modules["muon"].orthogonal(matrix, iterations=8))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_the_bound_of_a_model_that_knows_nothing_is_log_of_the_vocabulary(masked_lm):
    run, texts = tiny_run(masked_lm, "muon"), tiny_texts(masked_lm, count=200)
    for parameter in run.model.parameters():
        torch.nn.init.zeros_(parameter)
    per_token, per_character = masked_lm.evaluate(run.model, texts, 0, 4)
    canvas = ((texts.lengths() + 3) // 4 * 4 - 1).sum() / (texts.lengths() - 1).sum()  # padding within a canvas is predicted too
    assert per_token == pytest.approx(torch.log(torch.tensor(20.0)).item() * canvas.item(), rel=1e-4)
    assert per_character == pytest.approx(per_token * (len(texts.ids) - len(texts)) / texts.characters)
    assert masked_lm.evaluate(run.model, texts, 0, 4) == (per_token, per_character)


def test_what_is_exported_at_any_moment_is_the_average_and_the_log(masked_lm, tmp_path):
    run = tiny_run(masked_lm, "muon")
    list(train(masked_lm, run, tiny_texts(masked_lm), 3, 1))
    run.log = [{"step": 3, "tokens": run.tokens, "loss": 3.0}]
    tokenizer = sys.modules["corpus"].wordpiece([*sys.modules["corpus"].SPECIAL_TOKENS, *"abcdefghijklmno"])
    masked_lm.export(run, tokenizer, tmp_path)
    there = transformers.BertForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    averaged, now = run.averaged.module.state_dict(), run.model.state_dict()
    matrix = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(there[matrix], averaged[matrix].half().float())
    assert not torch.equal(averaged[matrix], now[matrix])
    assert [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()] == run.log
