"""Fit learned values to a text model and rewards: texts are drawn and given, judged once, and put under noise again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fktext.batches import fits
from fktext.errors import UsageError
from fktext.population import Population
from fktext.rewards import Scorer, Weighted
from fktext.settings import Settings, TextRun
from fktext.smc.ledger import Ledger
from fktext.smc.noise import population_key
from fktext.smc.process import Featured, Features
from fktext.texts.generate import generate
from fktext.texts.model import Start, TextModel
from fktext.values.files import Card, Level, digest_of
from fktext.values.fit import Encode, Fitted, Masks, Noising, Seen, chance, fit, levels, look
from fktext.values.head import Head

JUDGED = 256  # texts at a time
PILOT = 500  # texts of a fit before a run
PREFIX = 4  # most tokens of a text that stand for a prompt, in every other text


@dataclass(frozen=True)
class Status:
    """Tell how far a fit is: `done` of `total` of what `doing` says."""

    doing: str
    done: int
    total: int


@dataclass(frozen=True)
class Prepared:
    """Hold judged texts and what the network computed of them.

    Attributes:
        run: how the model's own texts were drawn.
        seen: of the network.
        rewards: (n, P) of the texts.
        own, given: how many texts are the model's, and how many were given.
        ledger: what all of it has cost.
    """

    run: TextRun
    seen: Seen
    rewards: Tensor
    own: int
    given: int
    ledger: Ledger


def _prepare(
    model: TextModel,
    terms: Sequence[Weighted],
    texts: Sequence[str],
    own: int,
    prompts: Sequence[str],
    asked: Settings,
    copies: int,
) -> Iterator[Status | Prepared]:
    """Draw and judge texts, put them under noise, and run the network on them; see `fit_values`."""
    run, seed = model.resolve(asked), asked.seed
    noising = _noising(model, run, prompts[0])
    found: list[str] = []
    ledger, started = Ledger(), time.perf_counter()
    rounds = -(-own // len(prompts)) if own else 0
    if rounds:
        for item in generate(model, [], list(prompts), replace(asked, samples=rounds)):
            if isinstance(item, Population):
                found.append(str(item.texts[0]))
                ledger += item.ledger
                yield Status("drawing texts", len(found), rounds * len(prompts))
    found = found[:own]
    rows = [row for text in (*found, *texts) if (row := _row(model, text, run.length)) is not None]
    ids, free, starts = _prefixed(model, torch.tensor(rows).reshape(-1, run.length), seed)
    scorer, values = Scorer(terms), []
    for first in range(0, len(ids), JUDGED):
        part = range(first, min(first + JUDGED, len(ids)))
        judged = [model.decode(ids[place : place + 1], starts[place])[0] for place in part]
        values.append(scorer(judged, ", fitting a value"))
        yield Status("judging texts", part.stop, len(ids))
    for step in look(noising, ids, free, copies=copies, seed=seed):
        if isinstance(step, Seen):
            ledger = ledger + scorer.ledger + Ledger(denoiser_rows=len(step.trained) + len(step.tested))
            cost = replace(ledger, seconds=time.perf_counter() - started)
            yield Prepared(run, step, torch.cat(values), len(found), len(ids) - len(found), cost)
        else:
            yield Status("running the network", *step)


def _noising(model: TextModel, run: TextRun, prompt: str) -> Noising:
    """Return how the model's texts are put under noise, before anything is computed.

    Raises:
        UsageError: a model whose processes keep nothing that a value could use, or whose texts have nothing to begin with.
    """
    probe = model.process([prompt], [model.template(prompt, run.length)], run, 1)
    if not isinstance(probe, Featured):
        raise UsageError(f"model {model.name!r} has no learned values of this length: they are for texts that fit one window")
    if not isinstance(probe, Noising):
        return Masks(_encoder(model.denoiser), model.denoiser.mask_id)
    try:
        model.template("", run.length)
    except UsageError as error:
        raise UsageError(f"a value is fitted to texts without a prompt, which this model has not: {error}") from error
    return probe


def _encoder(network: Any) -> Encode:
    """Return the network's encoder, which takes less at a time where memory does not hold so many rows."""

    def encode(part: Tensor, when: Tensor) -> Tensor:
        hidden = fits(lambda: network.encode(part.to(network.device), when.to(network.device)), len(part))
        if hidden is None:
            return torch.cat([encode(*half) for half in zip(part.chunk(2), when.chunk(2), strict=True)])
        return hidden

    return encode


def fit_values(
    model: TextModel,
    terms: Sequence[Weighted],
    texts: Sequence[str] = (),
    *,
    own: int = 1000,
    prompts: Sequence[str] = ("",),
    length: int | None = None,
    temperature: float | None = None,
    copies: int = 2,
    seed: int = 0,
) -> Iterator[Status | tuple[Head, Card]]:
    """Fit a value for each reward.

    Args:
        model: a masked model, an SSD-LM or a DUO.
        terms: the rewards; their weights do not count.
        texts: to fit to beside the model's own; those that resemble what steering leads to help most.
        own: how many texts of the model to draw, by its own defaults.
        prompts: what these continue, in turn.
        length: tokens of a sequence; None takes the model's.
        temperature: of the model's own texts; None takes the model's.
        copies: how often each text is put under noise anew.
        seed: of everything random.

    Yields:
        `Status` on the way, and at the end a head and its card for each reward, in their order.

    Raises:
        UsageError: another kind of model, too few texts, or rewards of these texts that are all equal.
        RewardError: a reward failed.
    """
    started = time.perf_counter()
    asked = Settings(method="base", length=length, temperature=temperature, seed=seed)
    for step in _prepare(model, terms, texts, own, prompts, asked, copies):
        if isinstance(step, Status):
            yield step
            continue
        for number, term in enumerate(terms):
            yield Status("fitting heads", number, len(terms))
            fitted = fit(step.seen, step.rewards[:, number], seed=seed, probabilities=_probabilities(term))
            yield fitted.head, _card(model, term, step, fitted, time.perf_counter() - started)


@dataclass(frozen=True)
class Pilot:
    """Hold what was fitted before a run.

    Attributes:
        heads: one for each reward, in their order.
        ledger: what drawing, judging and fitting have cost.
    """

    heads: list[Head]
    ledger: Ledger


def pilot(
    model: TextModel, terms: Sequence[Weighted], prompts: Sequence[str], run: TextRun, *, own: int = PILOT
) -> Iterator[Status | Pilot]:
    """Fit a value for each reward to texts that the model itself draws in the way of a run.

    Args:
        model, terms: of the run.
        prompts: to continue, in turn.
        run: whose length, temperature, nucleus, kernel and steps are taken. The noise is another than the run's: weights are only
            right by a value that knows nothing of the particles' own.
        own: how many texts; they are drawn for as many rounds over the prompts as it takes.

    Yields:
        `Status` on the way, and at the end what was fitted.

    Raises:
        UsageError: the model has no values, or the rewards of these texts are all equal. RewardError: a reward failed.
    """
    started = time.perf_counter()
    asked = Settings(
        method="base",
        length=run.length,
        steps=run.steps,
        kernel=run.kernel,
        temperature=run.temperature,
        top_p=run.top_p,
        seed=population_key(run.seed, "pilot"),
    )
    for step in _prepare(model, terms, (), own, prompts[:own] or [""], asked, 2):
        if isinstance(step, Status):
            yield step
            continue
        heads = [
            fit(step.seen, step.rewards[:, number], seed=asked.seed, probabilities=_probabilities(term)).head
            for number, term in enumerate(terms)
        ]
        device = str(model.denoiser.device)
        cost = replace(step.ledger, seconds=time.perf_counter() - started)
        yield Pilot([head.to(device) for head in heads], cost)


def _probabilities(term: Weighted) -> bool:
    """Tell whether values that are at most 0 are log-probabilities; a reward where they are not has `log_probability = False`."""
    return bool(getattr(term.bare, "log_probability", True))


def _card(model: TextModel, term: Weighted, data: Prepared, fitted: Fitted, seconds: float) -> Card:
    """Write down what a value belongs to."""
    return Card(
        model=model.name,
        model_digest=model.digest,
        reward=term.name,
        reward_digest=digest_of(term),
        link=fitted.head.link,
        center=fitted.head.center,
        scale=fitted.head.scale,
        size=fitted.head.size,
        own=data.own,
        given=data.given,
        length=data.run.length,
        temperature=data.run.temperature,
        loss=round(fitted.loss, 6),
        chance=round(fitted.chance, 6),
        levels=fitted.levels,
        seconds=round(seconds, 1),
        version=version("fktext"),
    )


@dataclass(frozen=True)
class Checked:
    """Say how good a value is on texts.

    Attributes:
        loss, chance: of the value, and of the best constant.
        levels: by share of unknown positions.
    """

    loss: float
    chance: float
    levels: list[Level]

    @property
    def passed(self) -> bool:
        """Whether it is better than a constant."""
        return self.loss < self.chance


def check_value(
    model: TextModel,
    term: Weighted,
    head: Head,
    texts: Sequence[str] = (),
    *,
    own: int = 1000,
    prompts: Sequence[str] = ("",),
    length: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> Iterator[Status | Checked]:
    """Compare a value with the reward on texts; arguments and errors as for `fit_values`.

    Yields:
        `Status` on the way, and at the end how good it is.
    """
    asked = Settings(method="base", length=length, temperature=temperature, seed=seed + 1)
    for step in _prepare(model, [term], texts, own, prompts, asked, 1):
        if isinstance(step, Status):
            yield step
            continue
        features = Features(*(torch.cat(parts) for parts in zip(step.seen.train, step.seen.test, strict=True)))
        rewards = step.rewards[torch.cat([step.seen.trained, step.seen.tested]), 0].float()
        head = head.cpu()
        yield Checked(
            float(head.loss(head.logit(features), rewards)),
            chance(head, rewards),
            levels(head(features), rewards, features.unknown),
        )


@dataclass(frozen=True)
class LogZ:
    """Say how well populations that look ahead in one way estimate log Z = log E_p[exp(lambda r)] of a prompt.

    Attributes:
        prompt, look_ahead: of the populations.
        log_z: log of the mean of their estimates of Z; None where all are dead.
        mean, variance: of log Z over the populations that are not dead; None where fewer than one or two are left.
        dead: how many populations are.
        reward_requests, seconds: what a population has cost, on average.
    """

    prompt: str
    look_ahead: str
    log_z: float | None
    mean: float | None
    variance: float | None
    dead: int
    reward_requests: float
    seconds: float

    @classmethod
    def of(cls, look_ahead: str, found: Sequence[Population]) -> LogZ:
        """Sum up the populations of one prompt."""
        log_z = torch.tensor([population.log_z for population in found], dtype=torch.float64)
        alive = log_z[log_z.isfinite()]
        return cls(
            prompt=found[0].prompt,
            look_ahead=look_ahead,
            log_z=float(log_z.logsumexp(0)) - math.log(len(found)) if len(alive) else None,
            mean=float(alive.mean()) if len(alive) else None,
            variance=float(alive.var()) if len(alive) > 1 else None,
            dead=len(found) - len(alive),
            reward_requests=sum(population.ledger.reward_requests for population in found) / len(found),
            seconds=sum(population.ledger.seconds for population in found) / len(found),
        )


def compare_log_z(
    model: TextModel, term: Weighted, folder: Path, prompts: Sequence[str], settings: Settings
) -> Iterator[Status | LogZ]:
    """Estimate log Z of each prompt by a value and by predictions, from the same noise.

    Both estimates of Z are unbiased. The one that varies less knows more of how particles end, and its mean log Z is the higher.

    Args:
        model, term: the value's.
        folder: of the value.
        prompts: to continue.
        settings: of both; `samples` populations for each prompt.

    Yields:
        `Status` on the way, and at the end of each look-ahead a `LogZ` for each prompt.

    Raises:
        UsageError: the value belongs to another model or reward. RewardError: a reward failed.
    """
    for number, (name, look_ahead) in enumerate((("value", f"value:{folder}"), ("predictions", "predictions"))):
        found: list[list[Population]] = [[] for _ in prompts]
        for step in generate(model, [term], list(prompts), replace(settings, look_ahead=look_ahead)):
            if isinstance(step, Population):
                found[step.prompt_index].append(step)
            else:
                yield Status("estimating log Z", number * step.total + step.done, 2 * step.total)
        yield from (LogZ.of(name, each) for each in found)


def _row(model: TextModel, text: str, length: int) -> list[int] | None:
    """Return the tokens of a text as a finished sequence, cut to the length; None where it is too short to fill it."""
    template = model.template("", length).tolist()
    mask, room = model.denoiser.mask_id, template.count(model.denoiser.mask_id)
    ids = model.spell(text)[:room]
    if mask in ids:
        return None
    if len(ids) < room:
        if model.end_id is None:
            return None
        ids = [*ids, model.end_id, *[model.end_id if model.pad_id is None else model.pad_id] * (room - len(ids) - 1)]
    first = template.index(mask)
    return [*template[:first], *ids, *template[first + room :]]


def _prefixed(model: TextModel, ids: Tensor, seed: int) -> tuple[Tensor, Tensor, list[Start]]:
    """Take the beginning of every other text as a prompt: ids, positions that are free, and how each text starts."""
    if not len(ids):
        return ids, ids.bool(), []
    rng = torch.Generator().manual_seed(seed)
    template = model.template("", ids.shape[1])
    generated = template == model.denoiser.mask_id
    first = int(generated.int().argmax())
    size = torch.randint(1, PREFIX + 1, (len(ids),), generator=rng) * (torch.arange(len(ids)) % 2)
    place = torch.arange(ids.shape[1])
    free = generated & (place >= first + size[:, None])
    starts = []
    for row, prefix in zip(ids.tolist(), size.tolist(), strict=True):
        begun = row[: first + prefix]
        starts.append(Start("", tuple(begun), model.tokenizer.decode(begun)))
    return ids, free, starts
