"""Models that are in memory already: transformers' own objects, used as they are."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

import fktext
from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.files.pretrained import pretrained

ASKED = {"particles": 3, "length": 9, "steps": 8, "seed": 4}
FOLDER = embedded.path("tiny-mdlm")


def short(texts):
    return [-0.1 * len(text) for text in texts]


@pytest.fixture
def network():
    return pretrained(FOLDER, AutoModelForMaskedLM, "a masked language model").train().requires_grad_(True)


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"), mask_token="[MASK]", pad_token="[PAD]")


def test_it_writes_what_the_same_model_writes_by_name(network, tokenizer):
    tokenizer.backend_tokenizer.enable_padding(length=40)
    held = fktext.load(network, tokenizer)
    named = fktext.load("tiny-mdlm")
    [one] = fktext.generate(held, short, "the sea", **ASKED)
    [other] = fktext.generate(named, short, "the sea", **ASKED)
    assert (one.texts, one.log_z) == (other.texts, other.log_z)
    assert (held.default_length, held.default_temperature, held.end_id) == (
        named.default_length,
        named.default_temperature,
        named.end_id,
    )
    assert tokenizer.backend_tokenizer.padding["length"] == 40  # the user's is left alone
    assert held.denoiser.model is network
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_its_digest_is_that_of_its_numbers(network, tokenizer):
    before = fktext.load(network, tokenizer)
    assert fktext.load(network, tokenizer, length=12).digest == before.digest
    with torch.no_grad():
        network.get_input_embeddings().weight[7, 7] += 1
    assert fktext.load(network, tokenizer).digest != before.digest


def test_a_plain_model_takes_a_plain_tokenizer(tmp_path):
    own = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    size = own.get_vocab_size()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=size, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    [one] = fktext.generate(fktext.load(BertForMaskedLM(config), own), short, "the sea", **ASKED)
    assert all(text.startswith("the sea") for text in one.texts)
    assert all(torch.isfinite(one.log_w))


def test_what_is_no_such_model_is_refused(network, tokenizer):
    with pytest.raises(UsageError, match=r"got a BertModel"):
        fktext.load(BertModel(BertConfig(num_hidden_layers=1, hidden_size=12)), tokenizer)
    with pytest.raises(UsageError, match=r"needs its tokenizer, a fast one: load\(model, tokenizer\); got NoneType"):
        fktext.load(network)
    with pytest.raises(UsageError, match="a model in memory stays as it is"):
        fktext.load(network, tokenizer, dtype="bfloat16")
    with pytest.raises(UsageError, match="model 'tiny-mdlm' has a tokenizer of its own"):
        fktext.load("tiny-mdlm", tokenizer)
    small = BertForMaskedLM(BertConfig(vocab_size=50, num_hidden_layers=1, hidden_size=12))
    with pytest.raises(ModelError, match=r"tokens, which contradicts the network's vocabulary of 50|do not fit"):
        fktext.load(small, tokenizer)
