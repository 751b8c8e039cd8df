"""Generate weighted populations of texts from prompts: the one call behind `fktext generate`."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from fktext import values
from fktext.errors import UsageError
from fktext.population import Member, Population
from fktext.rewards import Scorer, TokenGradient, Weighted
from fktext.rewards.sharded import ShardedScorer
from fktext.runs import Batch, Progress, members, populations
from fktext.settings import Settings, TextRun
from fktext.smc.hand import Hand, Handled
from fktext.smc.ledger import Ledger
from fktext.smc.lookahead import Values
from fktext.smc.process import ReverseProcess
from fktext.smc.sharded import ShardedProcess, Shares
from fktext.texts.board import Pieces, TextView
from fktext.texts.templates import Template

if TYPE_CHECKING:
    from fktext.smc.steer import Plan
    from fktext.texts.model import TextModel

__all__ = ["Population", "Progress", "generate"]


def generate(
    model: TextModel,
    terms: Sequence[Weighted],
    prompts: Sequence[str | Template],
    settings: Settings | TextRun,
    *,
    batch_size: int | None = None,
    skip: Container[tuple[int, int]] = (),
    guesses: bool = False,
    watch: bool = False,
    spread: bool = False,
    hand: Hand | None = None,
) -> Iterator[Progress | Population]:
    """Generate `settings.samples` weighted populations of texts for each prompt.

    Args:
        model: from `fktext.models.load`.
        terms: weighted rewards; may be empty with method "base".
        prompts: texts to continue, "" for none; or `Template`s to fill: such a text has the length of its template and no end
            before it, and rewards see the whole of it.
        settings: what is asked for, or what `model.resolve` made of it.
        batch_size: most particles computed at once; default 64 on a CPU, 1024 elsewhere. Where memory does not hold them they go
            through the network in halves, and so on. It does not change the result.
        skip: (prompt index, sample index) of populations that are there already.
        guesses, watch: keep the best prediction of each particle at each weighing; tell and keep all events (`fktext.trace`).
        spread: each population's particles are spread over the ranks of torch's default process group; every rank calls this with
            the same arguments, its own model and rewards aside, and gets the same populations.
        hand: reaches into the run, which then is of one population (`fktext.smc.hand`).

    Yields:
        `Progress` after each weighing, and populations in order as their batches finish. One whose finished texts all have reward
        -inf is dead (`Population.dead`); the others go on.

    Raises:
        UsageError: a setting out of range, a prompt that does not fit; before anything is computed.
        RewardError: a reward failed. FktextError: a weight is beyond any number, or memory does not hold the particles.
    """
    run = values.named(model, terms, settings if isinstance(settings, TextRun) else model.resolve(settings))
    if not terms and run.method != "base":
        raise UsageError(f"method {run.method!r} needs a reward")
    plan = values.plan(model, terms, run)
    if spread:
        _check_spread(run, plan)
    device = torch.device(str(model.denoiser.device))
    rows = batch_size or (64 if device.type == "cpu" else 1024)
    shares = Shares.of(run.particles) if spread else None
    scorer = ShardedScorer(Scorer(terms), shares) if shares else Scorer(terms)
    pieces = Pieces(model) if watch and not shares else None  # a rank sees its own particles only
    batches, cost = _batches(model, run, prompts, rows, shares, skip, pieces), Ledger()
    wanted = sum(len(batch.members) for batch in batches)
    if values.pilots(run) and wanted:
        plan, cost = yield from _piloted(model, terms, prompts, run, plan)
    batches = _guided(batches, model, terms, run, plan)
    if hand is not None:
        batches, plan = _through(batches, lambda own: Handled(own, hand)), hand.take(plan, scorer, wanted)
    share = Ledger(**{name: value / wanted for name, value in asdict(cost).items()}) if cost != Ledger() else cost
    for item in populations(
        batches, run, scorer, plan, device, guesses=guesses, watch=watch, too_large=partial(_too_large, run, rows)
    ):
        yield replace(item, ledger=item.ledger + share) if isinstance(item, Population) else item


def _guided(batches: list[Batch], model: TextModel, terms: Sequence[Weighted], run: TextRun, plan: Plan) -> list[Batch]:
    """Let batches draw their tokens by the gradient of rewards or of the values that the plan looks ahead by, if the run asks."""
    if run.proposal == "base":
        return batches
    by: Sequence[Any] = [_gradient(term) for term in terms] if run.proposal == "straight-through" else ()
    if isinstance(plan.look_ahead, Values) and not by:
        by = plan.look_ahead.heads
    weights = [term.weight for term in terms]
    return _through(batches, lambda own: model.guided(own, by, weights, run))


def _gradient(term: Weighted) -> TokenGradient:
    """Return how a reward changes with tokens.

    Raises:
        UsageError: it does not say, or sees texts through a window.
    """
    found: TokenGradient | None = getattr(term.reward, "gradient", None)
    if found is None:
        why = "needs the gradient of each reward by its judge's tokens, which networks of transformers have that read whole texts"
        raise UsageError(f"proposal 'straight-through' {why}; reward {term.name!r} has none")
    return found


def _through(batches: list[Batch], change: Callable[[ReverseProcess[Any]], ReverseProcess[Any]]) -> list[Batch]:
    """Let batches be made by what is made of their processes."""

    @contextmanager
    def process(batch: Batch) -> Iterator[ReverseProcess[Any]]:
        with batch.process() as own:
            yield change(own)

    return [replace(batch, process=partial(process, batch)) for batch in batches]


def _too_large(run: TextRun, rows: int, size: int) -> str:
    """Say that memory does not hold so many populations, of at most so many rows, at once."""
    less = f"a smaller batch size{', fewer particles' * (rows <= run.particles)} or a shorter length"
    return f"memory does not hold {size * run.particles} particles at once: give {less}"


def _check_spread(run: TextRun, plan: Plan) -> None:
    """Refuse what does not go with particles that are spread over ranks."""
    if run.proposal != "base":
        raise UsageError(f"proposal {run.proposal!r} does not go with particles that are spread over ranks")
    if isinstance(plan.look_ahead, Values) or values.pilots(run):
        raise UsageError("a learned value does not go with particles that are spread over ranks: use look-ahead 'predictions'")
    if run.method == "particle-gibbs":
        raise UsageError("method 'particle-gibbs' does not go with particles that are spread over ranks")


def _piloted(
    model: TextModel, terms: Sequence[Weighted], prompts: Sequence[str | Template], run: TextRun, plan: Plan
) -> Generator[Progress, None, tuple[Plan, Ledger]]:
    """Fit values before a run: return its plan with them, and what they have cost, which is the run's."""
    from fktext.texts.values import Pilot, pilot  # which draws texts by `generate`

    for step in pilot(model, terms, [prompt for prompt in prompts if isinstance(prompt, str)], run):
        if isinstance(step, Pilot):
            return replace(plan, look_ahead=Values(step.heads)), step.ledger
        yield Progress(step.done, step.total)
    raise AssertionError("a pilot ends with what it fitted")


def _batches(
    model: TextModel,
    run: TextRun,
    prompts: Sequence[str | Template],
    rows: int,
    shares: Shares | None,
    skip: Container[tuple[int, int]],
    pieces: Pieces | None,
) -> list[Batch]:
    """Encode the prompts, and put the populations of neighbours that one process can make together."""
    starts = [model.start(prompt) for prompt in prompts]
    templates = [model.template(start, run.length) for start in starts]
    filled = [isinstance(prompt, Template) for prompt in prompts]
    names = [("template", prompt.source) if isinstance(prompt, Template) else (prompt,) for prompt in prompts]
    asked = [("", str(prompt)) if isinstance(prompt, Template) else (prompt, None) for prompt in prompts]

    def batch(steps: int, chosen: Sequence[Member]) -> Batch:
        mine = [member.prompt_index for member in chosen]

        def build(particles: int) -> ReverseProcess[Any]:
            own = replace(run, particles=particles)
            return model.process([starts[index] for index in mine], [templates[index] for index in mine], own, rows)

        def process() -> AbstractContextManager[ReverseProcess[Any]]:
            return nullcontext(ShardedProcess(build, shares, len(mine)) if shares else build(run.particles))

        shown = [starts[index] for index in mine], [templates[index] for index in mine]
        return Batch(chosen, steps, process, TextView(model, *shown, run.particles, pieces) if pieces is not None else None)

    steps = [model.num_steps(template, run) for template in templates]
    kinds = list(zip(steps, filled, map(len, templates), strict=True))  # what populations of one process have in common
    wanted = members(run.seed, names, asked, run.samples, skip)
    together = _neighbours(wanted, [kinds[member.prompt_index] for member in wanted], max(1, rows // run.particles))
    return [batch(kind[0], chosen) for kind, chosen in together]


def _neighbours(wanted: Sequence[Member], kinds: Sequence[Any], size: int) -> Iterator[tuple[Any, list[Member]]]:
    """Yield neighbours of one kind, at most `size` at a time, with that kind."""
    for kind, run in groupby(zip(kinds, wanted, strict=True), key=lambda pair: pair[0]):
        chosen = [member for _, member in run]
        for first in range(0, len(chosen), size):
            yield kind, chosen[first : first + size]
