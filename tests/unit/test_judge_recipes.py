"""The recipes of the embedded judges of acceptability and toxicity: their parts on small inputs."""

import gzip
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "recipes"
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_calibration_error_is_the_mean_distance_of_probability_and_frequency():
    from calibration import calibration_error

    logit = torch.special.logit
    even = logit(torch.tensor([0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75]))
    assert calibration_error(even, [1, 0, 0, 0, 1, 1, 1, 0]) == pytest.approx(0, abs=1e-6)
    # two bins: four texts at .25 of which half are 1, one at .95 that is 0
    assert calibration_error(logit(torch.tensor([0.25, 0.25, 0.25, 0.25, 0.95])), [1, 1, 0, 0, 0]) == pytest.approx(
        0.2 * 0.95 + 0.8 * 0.25
    )
    assert calibration_error(torch.tensor([50.0, -50.0]), [1, 0]) == pytest.approx(0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_best_scale_undoes_a_factor(factor):
    from calibration import best_scale

    true = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.bernoulli(true.sigmoid(), generator=torch.Generator().manual_seed(1)).long().tolist()
    assert best_scale(true / factor, labels) == pytest.approx(factor, rel=0.08)


def test_even_shift_is_for_texts_as_often_of_one_label_as_of_the_other():
    from calibration import even_shift

    labels = torch.bernoulli(torch.full((40_000,), 0.8), generator=torch.Generator().manual_seed(0)).long()
    seen = torch.randn(40_000, generator=torch.Generator().manual_seed(1)) * 2**0.5 + 2.0 * labels - 1  # log-odds at even odds
    assert even_shift(seen, labels.tolist()) == pytest.approx(0, abs=0.05)
    assert even_shift(seen + 1.5, labels.tolist()) == pytest.approx(1.5, abs=0.05)


def test_hatecheck_is_counted_by_functionality(tmp_path):
    from toxicity_scores import hatecheck

    file = tmp_path / "toxicity/hatecheck/test_suite_cases.csv"
    file.parent.mkdir(parents=True)
    cases = ["slur_h,bad one,hateful", "slur_h,plain,hateful", "ident_nh,plain,non-hateful", "ident_nh,bad one,non-hateful"]
    file.write_text("\n".join(["functionality,test_case,label_gold", *cases, "ident_nh,plain,non-hateful"]) + "\n")
    total, each = hatecheck(lambda texts: torch.tensor([1.0 if "bad" in text else -1.0 for text in texts]), tmp_path)
    assert each == {"slur_h": (0.5, 2), "ident_nh": (pytest.approx(2 / 3), 3)}
    assert total["accuracy hatecheck"] == pytest.approx(3 / 5)
    assert total["mean accuracy of its functionalities"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_rates_of_pairs_are_counted():
    from acceptability_scores import share_larger

    values = SimpleNamespace(good=2.0, bad=1.0, same=1.0)

    def score(texts):
        return torch.tensor([getattr(values, text) for text in texts])

    assert share_larger(score, ["good", "same", "bad"], ["bad", "bad", "good"]) == pytest.approx(1 / 3)


def test_matrices_in_int8_stay_within_half_a_step():
    from fktext.files.weights import dequantised, quantised

    matrix = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    small = quantised({"a": matrix})
    assert small["a"].abs().max() == 127
    half_a_step = small["a.int8_scale"].float()[:, None] / 2
    assert ((dequantised(small)["a"] - matrix).abs() <= 1.001 * half_a_step + 127 * 2**-11 * 2 * half_a_step).all()
    again = quantised(dequantised(small))
    assert torch.equal(again["a"], small["a"])  # rounding what was rounded changes nothing


def test_neighbouring_phrases_trade_places():
    from corruption import Corruptor, split_words

    texts = [split_words("the book was written by john ."), split_words("she gave the old man a cup of tea !")]
    corruptor = Corruptor(texts, Random(0), {"phrase": 1.0})
    for words in texts * 20:
        out, touched = corruptor._phrase(list(words))
        assert sorted(out) == sorted(words)
        assert out != words
        assert out[-1] == words[-1]  # the final mark stays
        assert {i for i, (one, other) in enumerate(zip(out, words, strict=True)) if one != other} <= touched
        assert len(touched) >= 3
    assert corruptor._phrase(split_words("go on .")) is None


def test_a_verb_is_replaced_by_another_in_the_same_form():
    from corruption import Corruptor, split_words, verbs

    words = {"walk", "walks", "walked", "walking", "bake", "baked", "baking", "stop", "stopped", "stopping", "cat", "cats", "king"}
    found = verbs(words)
    assert found == {
        **{"walk": "", "walks": "s", "walked": "ed", "walking": "ing"},
        **{"bake": "", "baked": "ed", "baking": "ing", "stop": "", "stopped": "ed", "stopping": "ing"},
    }
    corruptor = Corruptor([sorted(words) * 3], Random(0), {"verb": 1.0})
    seen = {corruptor._verb(split_words("she walked home"))[0][1] for _ in range(40)}
    assert seen == {"baked", "stopped"}
    assert corruptor._verb(split_words("the cats")) is None


def test_the_sentences_kept_aside_do_not_train(tmp_path):
    from acceptability_judge import cola_parts

    file = tmp_path / "train.tsv"
    file.write_text("".join(f"src\t{i % 2}\t\tsentence {i}\n" for i in range(50)))
    rest, aside = cola_parts(file, 8, Random(3))
    again = cola_parts(file, 8, Random(3))
    assert (len(rest), len(aside)) == (42, 8)
    assert len({*rest, *aside}) == 50
    assert again == (rest, aside)


@pytest.fixture
def judge() -> tuple[Any, Any]:
    """A judge of two small layers, and its tokenizer."""
    from acceptability_training import Judge
    from corpus import SPECIAL_TOKENS, wordpiece

    tokenizer = wordpiece([*SPECIAL_TOKENS, "the", "cat", "cats", "sit", "sits", "##s", "."])
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        max_position_embeddings=64,
    )
    return Judge(transformers.BertForSequenceClassification(config)), tokenizer


def test_what_ships_is_the_mean_of_runs_that_each_leave_out_a_part(judge):
    from acceptability_training import margins
    from heldout_acceptability import learn_cola, mean_of_runs

    model, tokenizer = judge
    settings = SimpleNamespace(epochs=2, cola_rate=1e-3)
    cola = [("the cat sits.", 1), ("the cat sit.", 0), ("the cats sit.", 1), ("cats the sits.", 0), ("the cats.", 0)]
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runs, odds = [], []
    for seed, seen, unseen in ((7, cola[1::2], cola[::2]), (8, cola[::2], cola[1::2])):
        model.load_state_dict(first)
        learn_cola(model, tokenizer, seen, seed, settings)
        runs.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        odds.append(margins(model, tokenizer, [text for text, _ in unseen]))
    assert not torch.equal(runs[0]["model.classifier.weight"], runs[1]["model.classifier.weight"])
    model.load_state_dict(first)
    found, labels = mean_of_runs(model, tokenizer, cola, range(7, 9), settings)
    torch.testing.assert_close(found, torch.cat(odds))
    assert labels == [1, 1, 0, 0, 0]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, (runs[0][name] + runs[1][name]) / 2)


def test_even_odds_lie_half_way_between_colas_sentences_and_corruptions(judge, tmp_path):
    from calibration import even_shift
    from corruption import Corruptor, split_words
    from heldout_acceptability import KINDS, mean_of_runs, second_stage

    model, tokenizer = judge
    (tmp_path / "lm_b").mkdir()
    for source in ("books_b", "wikipedia_b"):
        with gzip.open(tmp_path / f"lm_b/{source}.txt.gz", "wt") as file:
            file.write("The cat sits on the mat. The cats sit. The old cat has sat on the mat of the cats.\n" * 5)
    settings = SimpleNamespace(epochs=2, cola_rate=1e-3, data=tmp_path, words=16, seed=7, runs=2)
    cola = [("the cat sits.", 1), ("the cat sit.", 0), ("the cats sit.", 1), ("cats the sits.", 0), ("the cats sits.", 1)]
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    of_cola = even_shift(*mean_of_runs(model, tokenizer, cola, range(7, 9), settings))
    bias = model.model.classifier.bias.detach().clone()
    model.load_state_dict(first)
    corruptor = Corruptor([split_words("the cat sits on the mat."), split_words("a cat has sat here.")], Random(1), KINDS)
    shift = second_stage(model, tokenizer, cola, corruptor, settings)
    torch.testing.assert_close(bias - model.model.classifier.bias, torch.tensor([0.0, shift]))
    assert abs(shift - of_cola) > 1e-6  # the corruptions have a say


def test_pieces_that_a_judge_lacks_are_those_of_its_encoder(judge, tmp_path):
    from safetensors.torch import save_file

    from acceptability_training import export
    from corpus import SPECIAL_TOKENS, wordpiece
    from heldout_acceptability import start_from

    model, tokenizer = judge
    encoder = transformers.BertModel(transformers.BertConfig(vocab_size=20, **_small(model)), add_pooling_layer=False)
    (tmp_path / "encoder").mkdir()
    encoder.config.save_pretrained(tmp_path / "encoder")
    save_file(encoder.state_dict(), tmp_path / "encoder/model.safetensors")
    export(model.model, tokenizer, model.model.state_dict(), tmp_path / "judge", 64)
    wider = wordpiece([*SPECIAL_TOKENS, "dog", "the", "cat", "."])
    found = start_from(tmp_path / "judge", tmp_path / "encoder", wider, list(range(10, 19)), 64)
    table = found.model.bert.embeddings.word_embeddings.weight
    theirs = model.model.bert.embeddings.word_embeddings.weight
    assert torch.equal(table[wider.token_to_id("dog")], encoder.embeddings.word_embeddings.weight[15])
    assert torch.equal(table[wider.token_to_id("cat")], theirs[tokenizer.token_to_id("cat")])
    assert torch.equal(found.model.classifier.weight, model.model.classifier.weight)


def _small(judge):
    """The sizes of a judge's configuration."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(judge.model.config, name) for name in names}
