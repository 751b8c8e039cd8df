"""Learned values: heads, their files, which model and reward they belong to, and runs that are steered by them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from fktext import Population, Settings, generate, load, load_plugins
from fktext.errors import ModelError, UsageError
from fktext.images.generate import resolve as resolve_image
from fktext.rewards import Weighted
from fktext.smc.noise import Noise
from fktext.smc.process import Features
from fktext.texts import values as text_values
from fktext.texts.model import TextModel
from fktext.texts.values import Checked, Status, check_value, fit_values
from fktext.values import card, find, heads, named, plan, save
from fktext.values import files as value_files
from fktext.values.files import Card
from fktext.values.fit import Masks, Seen, fit, levels, look
from fktext.values.head import Head

LENGTH, LONG = 12, 200  # the second is beyond the network's window


class Vowels:
    """Says how much of a text is the letter e: a log-probability, or a number above 0."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign, self.asked = sign, 0

    def score(self, samples: Any) -> torch.Tensor:
        self.asked += len(samples)
        share = torch.tensor([(text.count("e") + 0.5) / (len(text) + 1) for text in samples], dtype=torch.float64)
        return share.log() if self.sign > 0 else 10 * share


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load("tiny-mdlm", length=LENGTH)


@pytest.fixture(scope="module")
def term() -> Weighted:
    return Weighted("vowels", Vowels())


@pytest.fixture(scope="module")
def texts() -> list[str]:
    words = ["the", "see", "tree", "a", "book", "cat", "three", "was", "on", "bee", "here", "dog"]
    return [" ".join(words[(number * step) % 12] for step in range(1, 3 + number % 7)) for number in range(240)]


@pytest.fixture(scope="module")
def fitted(model: TextModel, term: Weighted, texts: list[str]) -> tuple[Head, Card]:
    found = list(fit_values(model, [term], texts, own=0, copies=2))
    assert {each.doing for each in found if isinstance(each, Status)} == {"judging texts", "running the network", "fitting heads"}
    return next(each for each in found if not isinstance(each, Status))


@pytest.fixture
def folder(fitted: tuple[Head, Card], tmp_path: Path) -> Path:
    save(tmp_path / "value", *fitted)
    return tmp_path / "value"


def test_a_fit_learns_what_a_finished_text_will_be_worth(fitted: tuple[Head, Card]) -> None:
    _, about = fitted
    assert (about.own, about.given, about.length, about.link) == (0, 240, LENGTH, "logistic")
    assert about.loss < about.chance
    assert sum(level.texts for level in about.levels) == 24


def test_the_same_seed_fits_the_same_head(model: TextModel, term: Weighted, texts: list[str], fitted: tuple[Head, Card]) -> None:
    again = next(each for each in fit_values(model, [term], texts, own=0) if not isinstance(each, Status))
    for name, tensor in fitted[0].state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name]), name


def test_a_value_is_what_minimises_its_loss() -> None:
    rewards = torch.tensor([0.1, 0.4, 0.9]).log()
    for link, goal in (("logistic", float(rewards.exp().mean().log())), ("mean", float(rewards.mean()))):
        head = Head(4, link, -1.0, 2.0)
        z = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([z], max_iter=100)

        def closure(head: Head = head, z: torch.Tensor = z, optimizer: Any = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = head.loss(z.expand(3), rewards)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert float(head.value(z.detach())) == pytest.approx(goal, abs=1e-3)


def test_masks_are_closed_form_noise() -> None:
    """Clamped positions stay, and over many texts each share of masks is as likely as any other."""
    ids, free = torch.zeros(4000, 10, dtype=torch.long), torch.ones(4000, 10, dtype=torch.bool)
    free[:, :2] = False
    *_, seen = look(Masks(lambda part, when: part[..., None].float(), 7), ids, free, copies=1)
    assert isinstance(seen, Seen)
    assert not seen.train.hidden[:, :2].any()
    share = (seen.train.hidden[:, 2:, 0] == 7).float().mean(1)
    torch.testing.assert_close(seen.train.unknown, share * 0.8)
    counts = torch.bincount((share * 8).round().long(), minlength=9) / len(share)
    assert (counts - 1 / 9).abs().max() < 0.02  # of 8 positions each number is as likely: integral of binomials over t
    assert not set(seen.trained.tolist()) & set(seen.tested.tolist())


def test_links_go_with_rewards() -> None:
    train, test = (Features(torch.randn(size, 3, 4), torch.rand(size)) for size in (90, 10))
    seen = Seen(train, test, torch.arange(90), torch.arange(90, 100))
    below, above = -torch.rand(100), torch.rand(100) * 5
    assert fit(seen, below).head.link == "logistic"
    assert fit(seen, above).head.link == "mean"
    assert fit(seen, below, probabilities=False).head.link == "mean"
    hard = torch.where(torch.arange(100) % 2 == 0, -torch.inf, 0.0)
    assert fit(seen, hard).head.link == "logistic"
    with pytest.raises(UsageError, match="no link"):
        fit(seen, torch.where(torch.arange(100) % 2 == 0, -torch.inf, above))
    with pytest.raises(UsageError, match="all texts are equal"):
        fit(seen, torch.zeros(100))


def test_levels_are_a_calibration_table() -> None:
    unknown = torch.linspace(0, 1, 1000)
    reward = -torch.rand(1000)
    table = levels(reward, reward, unknown)
    assert [level.texts for level in table] == [200] * 5
    assert all(level.correlation == pytest.approx(1) and level.said == level.was for level in table)
    assert all(abs(level.correlation) < 0.3 for level in levels(-torch.rand(1000), reward, unknown))


def test_a_value_steers_without_asking_the_reward_on_the_way(model: TextModel, folder: Path) -> None:
    reward = Vowels()
    settings = Settings(particles=6, length=LENGTH, steps=12, samples=6, lam=30.0, look_ahead=f"value:{folder}", seed=2)
    found = [each for each in generate(model, [Weighted("vowels", reward)], ["the"], settings) if isinstance(each, Population)]
    assert reward.asked <= 36
    assert sum(population.ledger.reward_requests for population in found) == 36
    assert any(step.resampled for population in found for step in population.steps)
    for population in found:  # what was weighed by: the value on the way, the reward at the end
        assert torch.equal(population.steps[-1].reward, population.rewards)
        assert all(step.values.shape == (6, 1, 1) for step in population.steps)
        torch.testing.assert_close(population.steps[0].log_w, 30 * population.steps[0].reward)


def test_batches_change_nothing(model: TextModel, folder: Path) -> None:
    settings = Settings(particles=3, length=LENGTH, steps=6, samples=2, look_ahead=f"value:{folder}")
    term = Weighted("vowels", Vowels())
    runs = [
        [each for each in generate(model, [term], ["the"], settings, batch_size=size) if isinstance(each, Population)]
        for size in (3, 64)
    ]
    assert [each.texts for each in runs[0]] == [each.texts for each in runs[1]]


def test_files_say_whose_they_are(model: TextModel, term: Weighted, folder: Path, fitted: tuple[Head, Card]) -> None:
    assert card(folder) == fitted[1]
    features = Features(torch.randn(5, LENGTH, 384), torch.rand(5))
    torch.testing.assert_close(heads(model, [term], [folder])[0](features), fitted[0](features), atol=2e-3, rtol=2e-3)
    with pytest.raises(UsageError, match=r"belongs to model 'tiny-mdlm' with digest \w{16}, not to 'other' with abc"):
        heads(replace(model, name="other", digest="abc"), [term], [folder])
    with pytest.raises(UsageError, match=r"no value of reward 'words' .* is given: got vowels"):
        heads(model, [Weighted("words", Vowels())], [folder])


def _no_weights(folder: Path) -> None:
    (folder / "value.safetensors").unlink()


def _cut(folder: Path) -> None:
    file = folder / "value.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "value.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "value.json").unlink(), r"holds no learned value: value\.json cannot be read"),
        (lambda folder: (folder / "value.json").write_text("{"), r"value\.json is damaged"),
        (_edit(size="wide"), r"value\.json is damaged: size"),
        (_edit(colour=1), r"value\.json is damaged: colour"),
        (_edit(size=12), r"contradicts value\.json"),
        (_no_weights, r"has no value\.safetensors"),
        (_cut, "not a whole safetensors file"),
    ],
)
def test_damaged_files(model: TextModel, term: Weighted, folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message):
        heads(model, [term], [folder])


def test_what_is_installed_is_found_by_digest(
    model: TextModel, term: Weighted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = model.resolve(Settings(length=LENGTH))
    monkeypatch.setattr(value_files, "installed", dict)
    assert find(model, [term]) is None
    assert named(model, [term], run).look_ahead == "predictions"
    with pytest.raises(UsageError, match="no value is installed for model 'tiny-mdlm' with vowels"):
        plan(model, [term], replace(run, look_ahead="value"))
    monkeypatch.setattr(value_files, "installed", lambda: {"mine": folder})
    assert find(model, [term]) == [folder]
    assert named(model, [term], run).look_ahead == "value"
    for change in ({"length": LENGTH + 1}, {"temperature": 1.0}):  # not what it was fitted to
        assert named(model, [term], replace(run, **change)).look_ahead == "predictions"
    assert named(model, [term], replace(run, method="best-of-n")).look_ahead == "predictions"
    assert named(model, [term], replace(run, look_ahead="none")).look_ahead == "none"
    other = Weighted("words", Vowels())
    assert named(model, [term, other], run).look_ahead == "predictions"  # one of them has none
    assert named(replace(model, digest="x"), [term], run).look_ahead == "predictions"


def test_a_check_tells_a_value_from_a_constant(
    model: TextModel, term: Weighted, texts: list[str], fitted: tuple[Head, Card]
) -> None:
    def checked(head: Head) -> Checked:
        return next(each for each in check_value(model, term, head, texts, own=0) if isinstance(each, Checked))

    assert checked(fitted[0]).passed
    torch.manual_seed(0)
    assert not checked(Head(384, "logistic").requires_grad_(False)).passed


def test_a_pilot_fits_before_the_run_which_pays_for_it(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_values.pilot, "__kwdefaults__", {"own": 60})
    reward = Vowels()
    settings = Settings(particles=4, length=LENGTH, steps=8, samples=2, look_ahead="value:fit", seed=2)
    prompts = ["the book", "you are"]
    found = [each for each in generate(model, [Weighted("vowels", reward)], prompts, settings) if isinstance(each, Population)]
    requests = [each.ledger.reward_requests for each in found]
    assert requests == [4 + 60 / 4] * 4  # its own particles, and a share of the pilot
    assert sum(requests) >= reward.asked > 4 * 4
    assert all(each.ledger.seconds > each.steps[-1].ledger.seconds / 4 for each in found)
    assert all(step.values.shape == (4, 1, 1) for each in found for step in each.steps)
    again = [each for each in generate(model, [Weighted("vowels", Vowels())], prompts, settings) if isinstance(each, Population)]
    assert [each.texts for each in again] == [each.texts for each in found]
    assert [each.log_z for each in again] == [each.log_z for each in found]


def test_a_pilot_knows_nothing_of_the_runs_noise(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the value would have been told how the very particles end that it weighs."""
    seen: list[tuple[int, ...]] = []
    whole = Noise.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[Noise], keys: Any, *more: Any) -> Noise:
        seen.append(tuple(keys))
        return whole(cls, keys, *more)  # type: ignore[no-any-return]

    monkeypatch.setattr(Noise, "of", classmethod(of))
    run = model.resolve(Settings(length=LENGTH, particles=2, steps=4, samples=3, look_ahead="value:fit"))
    assert list(text_values.pilot(model, [Weighted("vowels", Vowels())], ["the"], run, own=50))
    pilot = {key for keys in seen for key in keys}
    seen.clear()
    list(generate(model, [Weighted("vowels", Vowels())], ["the"], replace(run, look_ahead="none")))
    assert len(pilot) == 50
    assert seen
    assert not pilot & {key for keys in seen for key in keys}


def test_a_pilot_that_cannot_be_is_refused(model: TextModel) -> None:
    reward = Vowels()
    settings = Settings(particles=2, steps=4, length=LONG, look_ahead="value:fit")
    with pytest.raises(
        UsageError, match="'tiny-mdlm' has no learned values of this length: they are for texts that fit one window"
    ):
        list(generate(model, [Weighted("vowels", reward)], ["the"], settings))
    assert reward.asked == 0


@pytest.mark.parametrize("look_ahead", ["value", "value:fit", "value:somewhere"])
def test_images_have_no_values(look_ahead: str) -> None:
    asked = Settings(x0_samples=1, look_ahead=look_ahead)
    with pytest.raises(UsageError, match=f"an image pipeline has no learned values: .* got '{look_ahead}'"):
        resolve_image(asked)
    assert resolve_image(replace(asked, look_ahead="predictions")).look_ahead == "predictions"


def test_who_has_no_values(model: TextModel, term: Weighted, texts: list[str]) -> None:
    with pytest.raises(
        UsageError, match="'tiny-mdlm' has no learned values of this length: they are for texts that fit one window"
    ):
        list(fit_values(model, [term], texts, own=0, length=LONG))
    with pytest.raises(UsageError, match="at least 50 texts, got 10"):
        list(fit_values(model, [term], texts[:10], own=0))
    with pytest.raises(UsageError, match="unknown look-ahead 'values'"):
        Settings(look_ahead="values")


def test_log_sigmoid_is_the_log_of_the_probability_that_was_fitted() -> None:
    z = torch.tensor([-30.0, 0.0, 30.0])
    torch.testing.assert_close(Head(4, "logistic").value(z), logsigmoid(z))


@pytest.mark.parametrize("name", value_files.installed())
def test_what_is_shipped_asks_the_reward_at_most_twice_a_particle(name: str) -> None:
    """By default; four guesses at 20 weighings would ask 77 times."""
    about = card(value_files.installed()[name])
    term = load_plugins().create(about.reward)
    asked: list[int] = []

    class Counted:
        def score(self, samples: Any) -> Any:
            asked.append(len(samples))
            return term.reward.score(samples)

        def __getattr__(self, name: str) -> Any:  # its digest, by which the value is found
            return getattr(term.reward, name)

    owner, counted = load(about.model), replace(term, reward=Counted())
    settings = Settings(particles=4, length=about.length)
    [found] = [each for each in generate(owner, [counted], ["the book"], settings) if isinstance(each, Population)]
    assert 0 < found.ledger.reward_requests <= 2 * 4
    assert 0 < sum(asked) <= 2 * 4
    assert all(step.values.shape == (4, 1, 1) for step in found.steps)
