"""The whole harness against known answers: its intervals hold the truth as often as they say.

The model is a listable one (`fktext.testing.enumerable`), whose every prompt has a known share of texts with a "1" in them; a judge
looks for it. An evaluation is 15 of 256 prompts with six texts each; 102 such evaluations are cut from one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from statistics import fmean
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fktext.masked.model import MaskedModel
from fktext.settings import Settings
from fktext.testing.enumerable import Enumerable
from fktext_evals import Judge, Method, Results, Suite, run
from fktext_evals.measures import difference, share
from fktext_evals.running.results import Row
from fktext_evals.statistics import Interval, share_interval

TOKENS, PROMPT, FREE, STEPS = 4, 4, 2, 2
PROMPTS = [" ".join(map(str, ids)) for ids in product(range(TOKENS), repeat=PROMPT)]
GROUP, TEXTS, BLOCKS = 15, 6, 6
EVALUATIONS = len(PROMPTS) // GROUP * BLOCKS
BASE, BEST = ("base", 1), ("best-of-n", 2)


@pytest.fixture(scope="module")
def table() -> Enumerable:
    return Enumerable(PROMPT + FREE, TOKENS, STEPS, seed=3)


@pytest.fixture(scope="module")
def chances(table: Enumerable) -> list[float]:
    """Of each prompt the exact probability that what follows it has a "1"."""
    mask, found = table.denoiser.mask_id, []
    for prompt in product(range(TOKENS), repeat=PROMPT):
        mass = {(*prompt, *[mask] * FREE): 1.0}
        for step in range(STEPS):
            after: dict[tuple[int, ...], float] = {}
            for state, weight in mass.items():
                for following, chance in table._transitions(state, 1 / (STEPS - step)):
                    after[following] = after.get(following, 0.0) + weight * chance
            mass = after
        assert sum(mass.values()) == pytest.approx(1)
        found.append(sum(weight for state, weight in mass.items() if 1 in state[PROMPT:]))
    return found


@pytest.fixture(scope="module")
def results(table: Enumerable, plugin_path: Any, tmp_path_factory: pytest.TempPathFactory) -> Results:
    tokenizer = Tokenizer(models.WordLevel({str(digit): digit for digit in range(TOKENS)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = MaskedModel(
        name="enumerable",
        family="dit",
        denoiser=table.denoiser,
        tokenizer=tokenizer,
        digest="0" * 16,
        default_length=PROMPT + FREE,
        default_steps=STEPS,
        kernels=("ancestral",),
        bos_id=None,
        end_id=None,
        pad_id=None,
        closing_id=None,
        forbidden=(table.denoiser.mask_id,),
    )
    suite = Suite(
        name="known",
        description="a test",
        prompts=tuple(PROMPTS),
        rewards=("letters:letter=1",),
        methods=(
            Method("base", Settings(method="base", particles=1)),
            Method("best-of-n", Settings(method="best-of-n", particles=2)),
        ),
        judges=(Judge("ones", "letters:letter=1", "with a one", threshold=0.15),),  # (count + 0.5) / 5 is 0.1 without one
        samples=TEXTS * BLOCKS,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugin_path)
        return run(suite, model, out=tmp_path_factory.mktemp("known") / "run", batch_size=256)


def evaluations(results: Results, method: tuple[str, int]) -> Iterator[list[Row]]:
    """The rows of a method in each evaluation."""
    parts: dict[tuple[int, int], list[Row]] = {}
    for row in results.of(method):
        # prompts are dealt out, so that an evaluation does not hold neighbours only
        parts.setdefault((row["prompt_index"] % (len(PROMPTS) // GROUP), row["sample"] // TEXTS), []).append(row)
    yield from (part for part in parts.values() if len({row["prompt_index"] for row in part}) >= GROUP)


def coverage(intervals: list[Interval], truth: float) -> int:
    return sum(interval.low <= truth <= interval.high for interval in intervals)


def tail(hits: int, *, below: bool, level: float = 0.95) -> float:
    """The probability of so few (or so many) intervals that hold the truth, if each does with probability `level`."""
    range_ = range(hits + 1) if below else range(hits, EVALUATIONS + 1)
    return math.fsum(math.comb(EVALUATIONS, k) * level**k * (1 - level) ** (EVALUATIONS - k) for k in range_)


def plausible(hits: int) -> bool:
    return tail(hits, below=True) > 0.01 and tail(hits, below=False) > 0.01


def test_the_bound_can_tell() -> None:
    assert plausible(round(0.95 * EVALUATIONS))
    assert not plausible(round(0.88 * EVALUATIONS))
    assert not plausible(EVALUATIONS)


def test_means_are_the_exact_ones(results: Results, chances: list[float]) -> None:
    """All 9,216 texts of a method at once, prompts fixed: a standard error of half a percent."""
    judge = results.suite.judges[0]
    for method, truth in ((BASE, fmean(chances)), (BEST, fmean(1 - (1 - p) ** 2 for p in chances))):
        rows = results.of(method)
        error = math.sqrt(fmean(p * (1 - p) for p in chances) / len(rows))
        assert abs(share(rows, judge).mean - truth) < 4 * error


TRUTHS: dict[str, tuple[Callable[[float], float], tuple[str, int]]] = {
    "base": (lambda p: p, BASE),
    "best-of-n": (lambda p: 1 - (1 - p) ** 2, BEST),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_intervals_of_shares_hold_the_truth_at_the_stated_rate(results: Results, chances: list[float], name: str) -> None:
    truth, method = TRUTHS[name]
    found = [share(rows, results.suite.judges[0]) for rows in evaluations(results, method)]
    assert len(found) == EVALUATIONS
    hits = coverage(found, fmean(map(truth, chances)))
    assert plausible(hits), f"{hits} of {EVALUATIONS}"


def test_intervals_of_paired_differences_hold_the_truth_at_the_stated_rate(results: Results, chances: list[float]) -> None:
    judge = results.suite.judges[0]
    pairs = zip(evaluations(results, BEST), evaluations(results, BASE), strict=True)
    found = [interval for rows, others in pairs if (interval := difference(rows, others, judge))]
    hits = coverage(found, fmean(p * (1 - p) for p in chances))
    assert len(found) == EVALUATIONS
    assert plausible(hits), f"{hits} of {EVALUATIONS}"


def test_intervals_that_ignore_prompts_do_not(results: Results, chances: list[float]) -> None:
    """Negative control."""
    limit = results.suite.judges[0].log_threshold
    found = [
        share_interval([row["judges"]["ones"] > limit for row in rows], list(range(len(rows))), resamples=1000)
        for rows in evaluations(results, BASE)
    ]
    hits = coverage(found, fmean(chances))
    assert not plausible(hits), f"{hits} of {EVALUATIONS}"
