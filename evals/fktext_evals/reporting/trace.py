"""What happened in a run of `fktext generate` or `fktext image generate`, as one document; `page.trace_html` draws it.

It has every population with its lineage, and is made of the run's events (`fktext.trace`) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fktext.files.writing import to_json
from fktext.trace import End, Particle, Record, Run, Start, Weighing, plain
from fktext_evals import lineage


def trace(records: Iterable[Record], *, events: bool = False) -> dict[str, Any]:
    """Put the populations of a log together, those that have ended, with what they have in common.

    Args:
        records: of one run, from its beginning.
        events: keep the events of each population, too: the page plays them.

    Returns:
        run: model, seed and settings, as in every row; and populations, see `population`.
    """
    run: Mapping[str, Any] = {}
    told: dict[tuple[int, int], list[Start | Weighing | End]] = {}
    for record in records:
        if isinstance(record, Run):
            run = record.run
        else:
            told.setdefault(record.population, []).append(record)
    ended = [found for found in told.values() if isinstance(found[-1], End)]
    return {"run": dict(run), "populations": [population(found, events=events) for found in ended]}


def population(found: Sequence[Start | Weighing | End], *, events: bool = False) -> dict[str, Any]:
    """Write a population as JSON has it: -inf is null.

    Args:
        found: its start, its weighings and its end.
        events: keep them.

    Returns:
        prompt, template, prompt_index, sample; names of the rewards; log_z; particles (a mapping each: text, continuation, reward,
        rewards, weight, ancestor, and of images `image`, a thumbnail as a `data:` address); lineage (see `fktext_evals.lineage`),
        of the last sweep; denoiser_rows, reward_calls, seconds.
    """
    start, end, weighings = found[0], found[-1], [event for event in found if isinstance(event, Weighing)]
    if not (isinstance(start, Start) and isinstance(end, End) and weighings):
        raise ValueError(f"population {found[0].population} has no beginning, no end, or was never weighed")
    last = [event for event in weighings if event.sweep == weighings[-1].sweep]
    pictures = last[-1].guesses if start.modality == "image" else ()
    return {
        "prompt": start.prompt,
        "template": start.template,
        "prompt_index": start.population[0],
        "sample": start.population[1],
        "names": list(start.names),
        "log_z": to_json(end.log_z),
        "particles": [_particle(each, pictures[place] if pictures else None) for place, each in enumerate(end.particles)],
        "lineage": lineage.of_weighings(last, end.chosen, pictures=start.modality == "image"),
        **{name: end.ledger[name] for name in ("denoiser_rows", "reward_calls", "seconds")},
        **({"events": [plain(event) for event in found]} if events else {}),
    }


def _particle(particle: Particle, picture: str | None) -> dict[str, Any]:
    return {
        "text": particle.text if picture is None else particle.continuation,
        "continuation": particle.continuation,
        "reward": to_json(particle.reward),
        "rewards": [to_json(value) for value in particle.values],
        "weight": math.exp(particle.log_weight),
        "ancestor": particle.ancestor,
        **({} if picture is None else {"image": picture}),
    }
