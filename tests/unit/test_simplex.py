"""The simplex process: what a particle is, invariance, blocks, and the law it is steered to."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import tiny
from fktext.errors import ModelError, UsageError
from fktext.models import load
from fktext.rewards import Scorer, Weighted
from fktext.settings import Settings
from fktext.simplex import process as simplex
from fktext.simplex.guidance import ClassifierGuidance
from fktext.simplex.model import SimplexModel
from fktext.simplex.process import SimplexDiffusion, alpha_bar
from fktext.simplex.projections import PROJECTIONS, K, one_hot
from fktext.simplex.ssdlm import SimplexLM
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions, Values
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS, Terminal
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.lookaheads import random_head
from fktext.text import Text
from fktext.texts.generate import Population, generate
from fktext.texts.values import Status, fit_values
from fktext.values import save
from fktext.values.fit import Seen, look

TINY = tiny.GOLDEN / "ssdlm_tiny"
KEYS = [population_key(0, name) for name in "abc"]


@pytest.fixture(scope="module")
def network() -> SimplexLM:
    """A real network of six tokens with random weights."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=6,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        type_vocab_size=1,
        initializer_range=0.6,
    )
    embed_sum, timestep = torch.nn.Linear(6, 8, bias=False), torch.nn.Linear(1, 8)
    torch.nn.init.normal_(embed_sum.weight, std=3.0)  # so that the simplex matters beside positions
    return SimplexLM(transformers.RobertaForMaskedLM(config), embed_sum, timestep)


def decode(ids, population):
    return [Text("".join(str(token) if token >= 0 else "" for token in row)) for row in ids.tolist()]


def make(network, populations=3, particles=1, steps=6, templates=None, block=3, **settings):
    if templates is None:
        templates = torch.full((populations, 2 + 6), -1)
        templates[:, :2] = torch.tensor([1, 4])
    return SimplexDiffusion(network, templates, particles, steps, decode, block=block, **settings)


class Count:
    """How often token 3 occurs, in nats; texts of any length."""

    def score(self, samples):
        return [float(sample.count("3")) for sample in samples]


def run(
    network,
    keys=KEYS,
    particles=4,
    schedule=None,
    lam=1.0,
    threshold=0.9,
    resampler="systematic",
    potential="difference",
    look_ahead=Predictions(2),  # noqa: B008  frozen
    **more,
):
    plan = Plan(
        particles, schedule or Every(2), POTENTIALS[potential], RESAMPLERS[resampler], lam, threshold, look_ahead=look_ahead
    )
    process = make(network, len(keys), particles, **more)
    return steer(process, Scorer([Weighted("count", Count())]), Noise.of(keys, particles), plan)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("schedule", [Every(1), Every(4), At([5, 7])])
def test_one_particle_is_the_base_sampler(network, projection, schedule):
    base = run(network, particles=1, schedule=At([]), potential="terminal", projection=PROJECTIONS[projection])
    steered = run(network, particles=1, schedule=schedule, threshold=1.1, projection=PROJECTIONS[projection])
    assert steered.samples == base.samples


def test_lambda_zero_keeps_every_lineage(network):
    base = run(network, schedule=At([]), potential="terminal")
    flat = run(network, lam=0.0, threshold=1.1)
    assert flat.samples == base.samples
    assert torch.equal(flat.roots, torch.arange(4).expand(3, 4))
    assert len(set(base.samples)) > 4


def test_result_does_not_depend_on_batches_or_company(network, monkeypatch):
    together = run(network)
    assert any(step.resampled.any() for step in together.steps)
    for chunked in (run(network, batch_size=1), run(network, batch_size=5)):
        assert chunked.samples == together.samples
        assert torch.equal(chunked.roots, together.roots)
    monkeypatch.setattr(simplex, "ELEMENTS", 6 * 3 * 7)  # seven rows of noise at once
    assert run(network).samples == together.samples
    for index, key in enumerate(KEYS):
        assert run(network, [key]).samples == together.samples[4 * index : 4 * index + 4]


def test_noise_is_never_held_for_all_rows_at_once(network, monkeypatch):
    sizes = []
    encode = SimplexLM.encode_all

    def watched(self, context, x, t):
        sizes.append(x.numel())
        return encode(self, context, x, t)

    monkeypatch.setattr(SimplexLM, "encode_all", watched)
    monkeypatch.setattr(simplex, "ELEMENTS", 6 * 3 * 2)
    run(network)
    assert max(sizes) == 6 * 3 * 2
    process = make(network, 3, 4)
    assert process.init(Noise.of(KEYS, 4)).hidden.shape == (12, 2 + 6, 8)  # a particle is L x D, not L x V


def test_network_calls(network):
    """One per step and particle: predictions of x0 cost none."""
    process = make(network, 3, 4)
    noise = Noise.of(KEYS, 4)
    state = process.init(noise)
    for k in range(process.num_steps):
        _, state = process.predict(state, k, noise, 5)
        state = process.advance(state, k, k + 1, noise)
    assert process.num_steps == 12
    assert process.ledger.denoiser_rows == 12 * 12


def test_contexts_of_different_length_and_a_last_block_that_is_cut(network):
    """Contexts of 1 and 2 tokens, 8 tokens in all: seven and six to write, in three blocks of 3 and two; so 7 asks for three."""
    templates = torch.full((2, 8), -1)
    templates[0, :2], templates[1, 0] = torch.tensor([1, 4]), 1
    with pytest.raises(ValueError, match=r"same number of blocks, these need \[2, 3\]"):
        make(network, templates=templates)
    templates = torch.full((2, 9), -1)
    templates[0, :2], templates[1, 0] = torch.tensor([1, 4]), 1  # seven and eight to write, three blocks
    both = run(network, KEYS[:2], templates=templates)
    assert all(len(text) == 9 for text in both.samples)
    assert [text[:2] for text in both.samples[:4]] == ["14"] * 4
    assert [text[0] for text in both.samples[4:]] == ["1"] * 4
    for index in (0, 1):
        alone = run(network, [KEYS[index]], templates=templates[index : index + 1])
        assert alone.samples == both.samples[4 * index : 4 * index + 4]


def test_predictions_cover_what_is_written_and_the_present_block(network):
    process = make(network, 1, 2)
    noise = Noise.of(KEYS[:1], 2)
    state = process.init(noise)
    for k in range(12):
        x0, _ = process.predict(state, k, noise, 3)
        assert x0.shape == (6, 8)
        written = 2 + 3 * (k // 6)
        assert torch.equal(x0[:, :written], state.ids[:, :written].repeat_interleave(3, 0))
        assert (x0[:, written : written + 3] >= 0).all()
        assert (x0[:, written + 3 :] == -1).all()
        state = process.advance(state, k, k + 1, noise)
    x0, _ = process.predict(state, 12, noise, 3)
    assert x0.shape == (2, 8)
    assert (x0 >= 0).all()
    assert (x0[:, :2] == torch.tensor([1, 4])).all()


def test_a_block_sees_what_was_written_before_it(network):
    noise = Noise.of([KEYS[0]], 400)
    texts = []
    for first in (1, 3):
        templates = torch.full((1, 8), -1)
        templates[:, :2] = torch.tensor([first, 4])
        process = make(network, 1, 400, templates=templates)
        texts.append(process.advance(process.init(noise), 0, 12, noise).ids)
    assert (texts[0][:, 2:5] != texts[1][:, 2:5]).any()  # the same noise
    same = (texts[0][:, 2:5] == texts[1][:, 2:5]).all(-1)
    assert (texts[0][same, 5:] != texts[1][same, 5:]).any()


def test_schedule_ends():
    assert alpha_bar(0) == 1
    assert 0 <= alpha_bar(1) < 1e-12
    assert alpha_bar(0.5) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("top_p", [1e-9, 0.5, 1.0])
def test_projections_lie_in_the_cube(projection, top_p):
    logits = 4 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    point = PROJECTIONS[projection](logits, top_p, torch.rand(50, 1, dtype=torch.float64))
    assert point.abs().max() <= K
    assert torch.equal(point.amax(-1), torch.full((50,), K))
    if top_p < 1e-3:
        assert torch.equal(point.argmax(-1), logits.argmax(-1))
        assert (point > -K).sum() == 50


def test_temperature_flattens_the_predictions(network):
    noise = Noise.of([KEYS[0]], 1)

    def spread(temperature):
        process = make(network, 1, 1, temperature=temperature, top_p=1.0)
        x0, _ = process.predict(process.init(noise), 0, noise, 4000)
        share = torch.bincount(x0[:, 2], minlength=6) / 4000
        return -float(torch.special.xlogy(share, share).sum())

    assert spread(0.1) < spread(1.0) < spread(10.0) <= math.log(6)


@pytest.mark.parametrize("look_ahead", [Predictions(2), Values([random_head])], ids=["predictions", "random head"])
def test_steered_populations_estimate_the_tilted_law(network, look_ahead):
    """The normalising constant and the tilted mean of a statistic by 1000 small populations, against 20,000 plain texts."""
    short = torch.full((1, 5), -1)
    short[:, :2] = torch.tensor([1, 4])  # one block of 3, T = 4
    plain = steer(
        make(network, 1, 20_000, 4, templates=short),
        Scorer([Weighted("count", Count())]),
        Noise.of([population_key(1, "plain")], 20_000),
        Plan(20_000, At([]), Terminal(), lam=0.7, ess_threshold=0),
    )
    keys = [population_key(2, index) for index in range(1000)]
    more = {"templates": short.expand(1000, -1), "steps": 4, "look_ahead": look_ahead}
    steered = run(network, keys, 4, Every(1), lam=0.7, threshold=1.1, **more)
    assert sum(float(step.resampled.float().mean()) for step in steered.steps) > 1

    def compare(statistic):
        tilt = (0.7 * plain.reward[0]).exp()
        base = tilt * torch.tensor([statistic(text) for text in plain.samples]).double()
        value = torch.tensor([statistic(text) for text in steered.samples]).double().view(1000, 4)
        mine = steered.log_z.exp() * (steered.log_w.exp() * value).sum(-1)
        return float((mine.mean() - base.mean()) / (mine.var() / 1000 + base.var() / 20_000).sqrt())

    for statistic in (lambda text: 1.0, lambda text: float(text[2] == "3"), lambda text: float(text[4] == "3")):
        assert abs(compare(statistic)) < 5
    if look_ahead == Values([random_head]):
        return
    # without their weights the resampled texts have another law
    unweighted = torch.tensor([text.count("3") for text in steered.samples]).double().view(1000, 4).mean(1)
    base = plain.reward[0]
    assert abs(float((unweighted.mean() - base.mean()) / (unweighted.var() / 1000 + base.var() / 20_000).sqrt())) > 5


# What a learned value sees


def test_features_are_what_the_network_said_and_cost_nothing(network):
    process = make(network, 1, 2)
    noise = Noise.of(KEYS[:1], 2)
    state = process.init(noise)
    for k in range(12):
        rows = process.ledger.denoiser_rows
        features, state = process.features(state, k)
        assert process.ledger.denoiser_rows == rows
        written = 2 + 3 * (k // 6)
        assert features.hidden.shape == (2, 8, 8)
        assert features.hidden[:, : written + 3].abs().sum(-1).all()
        assert not features.hidden[:, written + 3 :].any()
        torch.testing.assert_close(features.unknown, torch.full((2,), ((1 - k % 6 / 6) * 3 + 5 - written) / 8))
        whole = network.logits(features.hidden[:, written : written + 3])
        torch.testing.assert_close(whole, process._logits(state.hidden[:, : written + 3]))  # the block is where it is written
        state = process.advance(state, k, k + 1, noise)
    assert not process.features(state, 12)[0].unknown.any()
    # what is before the block is read together with it
    x = torch.randn(1, 3, 6)
    both = network.encode_all(torch.tensor([[1, 4]]), x, 0.5)
    assert torch.equal(both[:, 2:], network.encode(torch.tensor([[1, 4]]), x, 0.5))
    assert not torch.equal(both[:, :2], network.encode_all(torch.tensor([[1, 4]]), x, 1.0)[:, :2])


def test_features_do_not_depend_on_batches_or_company(network):
    templates = torch.full((2, 9), -1)
    templates[0, :2], templates[1, 0] = torch.tensor([1, 4]), 1

    def features(chosen, keys, **more):
        process, noise = make(network, templates=chosen, particles=3, **more), Noise.of(keys, 3)
        return process.features(process.advance(process.init(noise), 0, 8, noise), 8)[0]

    both = features(templates, KEYS[:2])
    for index in (0, 1):
        alone = features(templates[index : index + 1], [KEYS[index]], batch_size=2)
        for mine, theirs in zip(alone, both, strict=True):
            torch.testing.assert_close(mine, theirs[3 * index : 3 * index + 3])


def test_noise_in_closed_form(network):
    """All blocks and times are as likely; what the network sees is the text before the block and the block at its noise time."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 6, (3000, 9), generator=rng)
    free = torch.arange(9) >= torch.where(torch.arange(3000) % 2 == 0, 2, 3)[:, None]
    process = make(network, 1)
    _, start, t, key = process.noised(ids, free, rng)
    assert torch.equal(start[::2].unique(), torch.tensor([2, 5, 8]))  # the last block is cut
    assert torch.equal(start[1::2].unique(), torch.tensor([3, 6]))
    for first in (3, 6):
        here = t[1::2][start[1::2] == first]
        assert len(here) == pytest.approx(750, abs=60)
        assert 0 < here.min() < 0.01 < 0.99 < here.max() <= 1
        assert float(here.mean()) == pytest.approx(0.5, abs=0.03)
    features = process.seen(ids, start, t, key)
    assert features.hidden.shape == (3000, 9, 8)
    torch.testing.assert_close(features.unknown[1::2], (t * 3 + 6 - start)[1::2] / 9)
    assert not features.hidden[start == 2][:, 5:].any()
    # block by block as the sampler would, and a row's features are its own
    row = int(((start == 5) & (t > 0.3) & (t < 0.5)).nonzero()[0])
    z = Noise(key[row : row + 1], torch.zeros(1, dtype=torch.long)).normal(4, 0, 18, torch.zeros(1, dtype=torch.long)).view(3, 6)
    x = simplex.renoise(one_hot(ids[row, 5:8], 6), float(t[row]), z)
    said = network.encode_all(ids[row : row + 1, :5], x[None], float(t[row]))
    torch.testing.assert_close(features.hidden[row, :8], said[0])
    alone = process.seen(*(tensor[row : row + 1] for tensor in (ids, start, t, key)))
    torch.testing.assert_close(alone.hidden[0], features.hidden[row])
    *_, seen = look(process, ids[:200], free[:200], copies=2)
    assert isinstance(seen, Seen)
    assert len(seen.trained) == 2 * 180
    assert seen.train.hidden.isfinite().all()


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_any_value_leaves_the_last_weights_as_they_are(network, potential):
    """They are lambda times the reward, up to a constant of the population: whatever was said on the way."""
    result = run(network, lam=2.0, threshold=0.0, potential=potential, look_ahead=Values([random_head]))
    torch.testing.assert_close(result.log_w, torch.log_softmax(2.0 * result.reward, -1))
    assert not any(step.resampled.any() for step in result.steps)
    assert any(step.log_w.std(-1).gt(0.1).all() for step in result.steps[:-1])  # it was said, and weighed


# The family


def byte_level() -> Tokenizer:
    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "Ġ",
        *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'",
        "Ġa",
        "Ġb",
    ]
    pieces += [f"{one}{two}" for one in "abcdef" for two in "abcdef"][: 97 - len(pieces)]
    merges = [tuple(piece) for piece in pieces if len(piece) == 2]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>"])
    return tokenizer


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "tiny-ssdlm-folder"
    shutil.copytree(TINY, place)
    byte_level().save(str(place / "tokenizer.json"))
    return place


def test_a_folder_is_known_by_its_layers(folder):
    model = load(str(folder))
    assert isinstance(model, SimplexModel)
    assert (model.family, model.start_id, model.end_id, model.block) == ("ssdlm", 0, None, 25)
    assert (model.denoiser.max_length, model.denoiser.vocab_size, model.default_top_p) == (80, 97, 0.95)
    assert model.kernels == ("simplex-sampling", "simplex-even", "simplex-uneven")
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    torch.save({"weight": torch.ones(32, 1), "bias": torch.ones(32)}, other / "timestep_layer.pt")
    assert load(str(other)).digest != model.digest
    assert load(str(folder), dtype="bfloat16").denoiser.embed_sum.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["embed_sum_layer.pt", "timestep_layer.pt"])
def test_a_missing_layer_is_one_clear_line(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=f"has no {missing}: an SSD-LM is RoBERTa with"):
        load(str(folder))


def configure(folder, **section):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"fktext": section}))


def test_a_tied_model_reads_the_simplex_through_its_word_embeddings(folder):
    words = load(str(folder)).denoiser.model.get_input_embeddings().weight
    tied = folder.with_name("tied")
    shutil.copytree(folder, tied, ignore=shutil.ignore_patterns("embed_sum_layer.pt"))
    configure(tied, tie_embed_sum=True)
    torch.save({"weight": words.T.clone()}, folder / "embed_sum_layer.pt")
    x = torch.randn(2, 5, 97, generator=torch.Generator().manual_seed(0))
    context = torch.tensor([[3], [4]])
    outputs = [load(str(place)).denoiser.encode(context, x, 0.5) for place in (folder, tied)]
    torch.testing.assert_close(outputs[0], outputs[1])
    assert load(str(tied)).family == "ssdlm"
    torch.save({"weight": torch.ones(32, 1), "bias": torch.ones(32)}, folder / "timestep_layer.pt")
    assert not torch.allclose(load(str(folder)).denoiser.encode(context, x, 0.5), outputs[1])


def test_a_layer_contradicts_a_config_that_ties_it(folder):
    configure(folder, tie_embed_sum=True)
    with pytest.raises(ModelError, match=r"has embed_sum_layer.pt, which contradicts tie_embed_sum in its config.json: remove"):
        load(str(folder))
    (folder / "embed_sum_layer.pt").unlink()
    (folder / "timestep_layer.pt").unlink()
    with pytest.raises(ModelError, match=r"has no timestep_layer.pt: an SSD-LM is RoBERTa with timestep_layer.pt beside it"):
        load(str(folder))
    configure(folder, tie_embed_sum="yes")
    with pytest.raises(ModelError, match=r"config.json has fktext.tie_embed_sum 'yes': Input should be a valid boolean"):
        load(str(folder))


def test_prompts_begin_words_and_texts_do_not_begin_with_a_space(folder):
    model = load(str(folder))
    template = model.template("a b", 10)
    assert template.tolist() == [byte_level().token_to_id("Ġa"), byte_level().token_to_id("Ġb")] + [-1] * 8
    assert model.template("", 4).tolist() == [0, -1, -1, -1]
    dot = byte_level().token_to_id(".")
    ids = torch.tensor([[*template[:2], dot, -1, -1], [*template[:2], dot, dot, dot]])
    first, second = model.decode(ids, "a b")
    assert (first, first.prompt, first.continuation) == ("a b.", "a b", ".")
    assert second == "a b..."
    assert model.decode(torch.tensor([[0, *template[:2], -1]]), "") == ["a b"]


def test_a_context_and_blocks_beyond_the_network_are_refused(folder):
    model = load(str(folder))
    assert len(model.template("ab", 77)) == 77
    with pytest.raises(UsageError, match=r"length 78 after a context of 2 tokens takes 4 blocks of 25, 102 tokens .* at most 77"):
        model.template("b a", 78)
    with pytest.raises(UsageError, match="length 81 is more than the 80"):
        model.template("ab", 81)
    with pytest.raises(UsageError, match="choose a shorter prompt"):
        model.template("x" * 70, 75)


def test_generate_steers_and_mixes_prompts(folder):
    model = load(str(folder))
    settings = Settings(particles=8, length=27, steps=6, resample_every=2, lam=1.0, x0_samples=2)

    class Letters:
        def score(self, samples):
            return [float(sum(letter.isupper() for letter in sample)) for sample in samples]

    prompts = ["a b", "a", "abc abc", ""]  # three of them take one block, "a" two
    terms = [Weighted("upper", Letters())]

    def rewards(chosen, **changes):
        mine = Settings(**{**settings.__dict__, **changes})
        return [item for item in generate(model, terms, chosen, mine) if isinstance(item, Population)]

    steered = rewards(prompts)
    assert [len(item.steps) for item in steered] == [3, 6, 3, 6]
    for item, prompt in zip(steered, prompts, strict=True):
        assert all(text.prompt == prompt for text in item.texts)
        alone = rewards([prompt])[0]
        assert alone.texts == item.texts
        torch.testing.assert_close(alone.log_w, item.log_w)
    with pytest.raises(UsageError, match=r"unknown kernel of model .*'ancestral'"):
        rewards(prompts, kernel="ancestral")
    assert rewards(["a"], kernel="simplex-even")[0].texts != rewards(["a"])[0].texts


def test_steering_raises_the_reward(folder):
    model = load(str(folder))

    class Digits:
        def score(self, samples):
            return [float(sum(letter.isdigit() for letter in sample)) for sample in samples]

    means = {}
    for method in ("base", "best-of-n", "fk"):
        settings = Settings(particles=8, samples=6, length=26, steps=8, resample_every=1, lam=4.0, method=method)
        found = [item for item in generate(model, [Weighted("d", Digits())], ["a"], settings) if isinstance(item, Population)]
        means[method] = sum(float(item.rewards.max()) for item in found) / len(found)
    assert means["base"] < means["best-of-n"]
    assert means["base"] < means["fk"]


class Vowels:
    """How many vowels there are, as the logarithm of a share."""

    def __init__(self):
        self.asked = 0

    def score(self, samples):
        self.asked += len(samples)
        return [math.log((sum(letter in "aeiou" for letter in sample) + 0.5) / (len(sample) + 1)) for sample in samples]


def test_a_value_is_fitted_and_steers(folder, tmp_path):
    configure(folder, block=8)
    model = load(str(folder), length=25)
    rng = torch.Generator().manual_seed(0)
    kinds = ["aeiou", "bdghklmnp", "abcdefghi"]
    texts = [
        "".join(kinds[row % 3][at % len(kinds[row % 3])] for at in torch.randint(0, 9, (48,), generator=rng)) for row in range(300)
    ]
    fitted = list(fit_values(model, [Weighted("vowels", Vowels())], texts, own=0, length=25))
    head, about = next(each for each in fitted if not isinstance(each, Status))
    assert (about.given, about.size, about.link) == (300, 32, "logistic")
    assert about.loss < about.chance
    save(tmp_path / "value", head, about)
    reward = Vowels()
    settings = Settings(
        particles=6, length=25, steps=6, samples=4, lam=3.0, ess_threshold=0.0, look_ahead=f"value:{tmp_path / 'value'}"
    )
    found = [item for item in generate(model, [Weighted("vowels", reward)], ["a b", ""], settings) if isinstance(item, Population)]
    assert reward.asked <= 2 * 4 * 6
    for item in found:
        torch.testing.assert_close(item.log_w, torch.log_softmax(3.0 * item.rewards, -1))


def test_a_model_without_a_start_token_has_no_values(folder):
    model = replace(load(str(folder)), start_id=None)
    with pytest.raises(
        UsageError, match=r"a value is fitted to texts without a prompt, which this model has not: .* no start token"
    ):
        list(fit_values(model, [Weighted("vowels", Vowels())], ["a"] * 60, own=0, prompts=["a"], length=27))


def test_a_model_s_guidance_reaches_its_sampler(folder):
    model = load(str(folder))
    settings = model.resolve(Settings(method="base", length=26, steps=3))
    template, noise = model.template("", 26), Noise.of([population_key(0, index) for index in range(4)], 1)

    def ids(guidance, batch_size=64):
        process = replace(model, guidance=guidance).process([""] * 4, [template] * 4, settings, batch_size)
        state = process.advance(process.init(noise), 0, process.num_steps, noise)
        return process.predict(state, process.num_steps, noise, 1)[0][:, 1:]

    bonus = torch.zeros(97)
    bonus[7] = 1e3
    assert (ids(None) != 7).any()
    assert (ids(lambda logits: logits + bonus) == 7).all()

    def classifier(vocab_size):
        return tiny.network("RobertaForSequenceClassification", vocab_size=vocab_size, max_position_embeddings=82, num_labels=3)

    guided = ids(ClassifierGuidance(classifier(97), 1, 1e5))
    assert not torch.equal(guided, ids(None))
    assert torch.equal(guided, ids(ClassifierGuidance(classifier(97), 1, 1e5), batch_size=3))  # a row's does not depend on others
    for label, size in ((3, 97), (0, 90)):
        with pytest.raises(
            UsageError, match=rf"label {label}: the classifier has 3 labels and a vocabulary of {size}, the model .* 97"
        ):
            ids(ClassifierGuidance(classifier(size), label, 1.0))
