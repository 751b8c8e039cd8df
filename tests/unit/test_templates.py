"""Templates: how they are written, what tokens they become, and that a filled text holds what was given."""

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tiny
from fktext.errors import UsageError
from fktext.masked.model import MaskedModel
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.texts.generate import Population, generate
from fktext.texts.templates import Template

TEXTS = [
    "The old cat sat on the mat, and the dog (a red one) ran on.",
    "It was raining; the king of the ring was sitting. Nothing else, one thing.",
    "  Two spaces, a line\nand another. Reading, writing {and} walking.",
]


def byte_level(prefix: bool = False) -> Tokenizer:
    """Such as GPT-2's (or RoBERTa's, with a space before a beginning text)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<end>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """Such as ALBERT's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    alphabet = sorted(set("".join(TEXTS)))
    trainer = trainers.UnigramTrainer(
        vocab_size=110, special_tokens=["<end>", "<pad>", "<unk>"], unk_token="<unk>", initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """Such as BERT's."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), *".,;()"]
    pieces = ["<end>", "<pad>", "[UNK]", *letters, "##ing", "the", "cat", "sat", "on", "rain"]
    return tiny.word_piece(pieces, ["<end>", "<pad>"])


TOKENIZERS = {"byte-level": byte_level, "byte-level, prefixed": lambda: byte_level(True), "metaspace": metaspace}


def model_of(tokenizer: Tokenizer, length: int = 40, **changes: object) -> MaskedModel:
    size = tokenizer.get_vocab_size()
    network = tiny.dit(size + 1, length).eval()
    torch.nn.init.normal_(network.output_layer.linear.weight)
    end, pad = tokenizer.token_to_id("<end>"), tokenizer.token_to_id("<pad>")
    settings = {"bos_id": end, "end_id": end, "pad_id": pad, "closing_id": None, "forbidden": (size,), "kernels": ("ancestral",)}
    return MaskedModel("tiny", "dit", network.requires_grad_(False), tokenizer, "", length, 8, **{**settings, **changes})


def fill(model: MaskedModel, *templates: str, kernel: str = "ancestral", terms=(), **settings) -> list[Population]:
    settings = {"particles": 1, "method": "base", "steps": 8, "kernel": kernel, **settings}
    run = generate(model, terms, [Template(text) for text in templates], Settings(**settings))
    return [item for item in run if isinstance(item, Population)]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("The {5} sat on the {3}.", ("The ", 5, " sat on the ", 3, ".")),
        ("{1}", (1,)),
        ("{2}{30} a", (2, 30, " a")),
        ("{{{1}}}", ("{", 1, "}")),
        ("{{5}} {1}", ("{5} ", 1)),
        ("a\nb {2}", ("a\nb ", 2)),
    ],
)
def test_parts(source, parts):
    assert Template(source).parts == parts
    assert str(Template(source)) == source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("The {x} sat", r"template 'The \{x\} sat' has a stray '\{' at character 5 \('\{x\} sat'\): a gap is \{n\}"),
        ("The {} sat {2}", "stray '{' at character 5"),
        ("{0}", "stray '{' at character 1"),
        ("{-3}", "stray '{' at character 1"),
        ("{ 3 }", "stray '{' at character 1"),
        ("{٣}", "stray '{' at character 1"),
        ("{3", "stray '{' at character 1"),
        ("{3}}", "stray '}' at character 4"),
        ("{12345678901234}", "stray '{' at character 1"),
        ("nothing to fill", r"has no gap, such as \{3\} for three tokens"),
        ("{{3}}", "has no gap"),
        ("", "has no gap"),
    ],
)
def test_malformed_templates(source, message):
    with pytest.raises(UsageError, match=message) as caught:
        Template(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kernel", ["ancestral", "remdm-cap", "confidence"])
def test_filled_texts_hold_what_was_given(name, kernel):
    model = model_of(TOKENIZERS[name](), kernels=("ancestral", "remdm-cap", "confidence"))
    templates = {
        "The {4} sat on the {3}.": r"The .* sat on the .*\.",
        "{3}, and {2} {1} ran.": r".*, and .* .* ran\.",
        "{2}ing (a {{red}} one){2}": r".*ing \(a \{red\} one\).*",
        "It {1}": r"It .*",
    }
    for (template, pattern), found in zip(templates.items(), fill(model, *templates, kernel=kernel, samples=1), strict=True):
        (text,) = found.texts
        assert re.fullmatch(pattern, text.lstrip(), re.DOTALL), (template, str(text))
        assert (found.prompt, found.template, text.prompt, text.continuation) == ("", template, "", text)


def test_tokens_of_a_template():
    model = model_of(byte_level())
    mask, end = model.denoiser.mask_id, model.end_id

    def ids(text: str) -> list[int]:
        return model.tokenizer.encode(text).ids

    assert model.template(Template("The {2} sat on {1}."), 99).tolist() == [
        *(end, *ids("The"), mask, mask, *ids(" sat on"), mask, *ids("."))
    ]
    closed = model_of(byte_level(), closing_id=1)
    assert closed.template(Template("{1} sat"), 99).tolist() == [end, mask, *ids(" sat"), 1]


def test_a_space_before_a_gap_begins_its_first_token():
    """It is no token of its own, yet always there; a gap that touches its text may go on with the word."""
    model = model_of(byte_level())
    spaced, joined = fill(model, "The {2}", samples=40), fill(model, "The{2}", samples=40)
    assert all(found.texts[0].startswith("The ") for found in spaced)
    assert not all(found.texts[0].startswith("The ") for found in joined)


def test_words_of_a_gap_are_joined_as_the_template_has_it():
    model = model_of(wordpiece())
    pieces = model.tokenizer.get_vocab()
    assert model.template(Template("the {1}ing cat"), 0).tolist()[2:] == [model.denoiser.mask_id, pieces["##ing"], pieces["cat"]]
    assert model.template(Template("the {1} ing cat"), 0).tolist()[3:5] == [pieces["i"], pieces["##n"]]
    assert model.template(Template("The CAT {1}."), 0).tolist()[1:] == [
        pieces["the"],
        pieces["cat"],
        model.denoiser.mask_id,
        pieces["."],
    ]


def test_nothing_ends_inside_a_template():
    model = model_of(byte_level())
    with torch.no_grad():
        model.denoiser.output_layer.linear.weight.zero_()
        model.denoiser.output_layer.linear.bias[[model.end_id, model.pad_id]] = 20.0
    (free,) = [item for item in generate(model, [], ["The"], Settings(method="base", steps=8)) if isinstance(item, Population)]
    assert free.texts == ["The"]  # the model wants nothing but an end
    for filled in fill(model, "The{1}sat", samples=20):  # an end would leave nothing of the gap
        assert re.fullmatch(r"The.+sat", filled.texts[0], re.DOTALL)


def test_steering_sees_the_whole_text_and_the_law_is_that_of_one_run():
    class Capitals:
        def score(self, samples):
            assert all(sample.prompt == "" and sample.startswith("The ") for sample in samples)
            return [float(sum(letter.isupper() for letter in sample)) for sample in samples]

    model = model_of(byte_level())
    settings = {"particles": 8, "samples": 4, "lam": 2.0, "resample_every": 2}
    templates = ["The {4} sat.", "The {6} sat {1}.", "The {5} sat."]  # the first and the last are of one length with others
    terms = [Weighted("capitals", Capitals())]
    steered = fill(model, *templates, terms=terms, **settings, method="fk")
    base = fill(model, *templates, terms=terms, samples=32)
    assert sum(float(item.rewards.max()) for item in steered) / len(steered) > 1.5 * sum(
        float(item.rewards.max()) for item in base
    ) / len(base)
    for index, template in enumerate(templates):
        alone = fill(model, template, terms=terms, **settings, method="fk")
        assert [item.texts for item in alone] == [item.texts for item in steered[4 * index : 4 * index + 4]]
    twice = fill(model, templates[0], templates[0], terms=terms, **settings, method="fk")
    assert twice[0].texts == steered[0].texts != twice[4].texts


def test_a_prompt_of_the_same_words_has_noise_of_its_own():
    model = model_of(byte_level())
    both = [
        item
        for item in generate(model, [], ["a {2}", Template("a {2}")], Settings(method="base", steps=4))
        if isinstance(item, Population)
    ]
    assert both[0].key != both[1].key
    assert (both[0].prompt, both[0].template, both[1].prompt, both[1].template) == ("a {2}", None, "", "a {2}")


def test_what_does_not_fit():
    model = model_of(byte_level())
    for gap in (38, 10**8):
        size = gap + 3 if gap < 100 else 100000003
        with pytest.raises(UsageError, match=rf"template 'The \{{{gap}\}}\.' takes {size} tokens, but model 'tiny' takes 40"):
            model.template(Template(f"The {{{gap}}}."), 0)
    assert len(model.template(Template("The {37}."), 0)) == 40
    with pytest.raises(UsageError, match=r"template 'a ☃ \{1\}' holds '☃', which model 'tiny' has no token for"):
        model_of(wordpiece()).template(Template("a ☃ {1}"), 0)
