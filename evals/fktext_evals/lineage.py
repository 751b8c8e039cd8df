"""Who descends from whom in a population, as plain data: small enough for a row of a run, enough to draw the tree.

A lineage is a mapping with K entries in each of its lists, one per weighing:

    k            reverse steps taken so far
    ess          effective sample size before resampling
    resampled    whether the population resampled then
    ancestors    (K, N) the particle each one goes on from after weighing k; the identity where it did not resample
    rewards      (K, N) what each particle was worth, -inf as null
    weights      (K, N) normalised, before resampling; they sum to 1 up to rounding
    texts        (K, N) what each particle was thought to become, the best of its predictions; at the last weighing the text itself
    images       the same of images, whose texts are empty: `data:` addresses of thumbnails; a row is empty where there are none

and `chosen`, the particle that was returned, null of a dead population. Where the population was watched there are also `board`,
what was given, and `revealed`, (K, N) what changed until each weighing (see `fktext.trace`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fktext.files.writing import to_json
from fktext.trace import Start, Weighing, plain

if TYPE_CHECKING:  # this imports torch
    from fktext.texts.generate import Population

Lineage = dict[str, Any]


def of(population: Population, chosen: int | None, width: int | None = None, side: int | None = None) -> Lineage:
    """Make the lineage of a population.

    Args:
        population: from `fktext.texts.generate.generate` with `guesses=True`, or without, then there are no texts on the way.
        chosen: the particle that is returned, None where the population is dead.
        width: cut texts after as many characters; None keeps them whole.
        side: of images, pixels of a thumbnail's longer side, 0 for none; None names them instead, as texts.
    """
    from fktext.smc import normalize

    steps = population.steps
    guesses = population.guesses or [()] * (len(steps) - 1) + [tuple(population.samples)]
    return {
        "k": [step.k for step in steps],
        "ess": [round(float(step.ess), 3) for step in steps],
        "resampled": [bool(step.resampled) for step in steps],
        "ancestors": [step.ancestors.tolist() for step in steps],
        "rewards": [[to_json(round(value, 4)) for value in step.reward.tolist()] for step in steps],
        "weights": [[round(value, 4) for value in normalize(step.log_w).tolist()] for step in steps],
        **(_seen(guesses, side) if side is not None else _told(guesses, width)),
        **_watched(population),
        "chosen": chosen,
    }


def _watched(population: Population) -> dict[str, Any]:
    """Return what is known of the tokens on the way."""
    weighings = [event for event in population.events if isinstance(event, Weighing)]
    last = [plain(event)["revealed"] for event in weighings if event.sweep == weighings[-1].sweep]
    starts = [list(event.board) for event in population.events if isinstance(event, Start)]
    return {"board": starts[0], "revealed": last} if all(last) and last else {}


def played(lineage: Mapping[str, Any], prompt: str) -> list[dict[str, Any]]:
    """Return a lineage as the events of its population, for the page to play; none where it has no texts on the way."""
    size, last = len(lineage["ancestors"][0]), len(lineage["k"])
    if "images" in lineage or ("board" not in lineage and not all(lineage["texts"])):
        return []
    start = {"event": "start", "prompt": prompt, "modality": "text", "names": ["reward"], "board": lineage.get("board", [])}
    weighings = [
        {
            "event": "weighing",
            "sweep": 0,
            "revealed": lineage.get("revealed", [[]] * last)[place],
            "guesses": lineage["texts"][place],
            "values": [],
            "log_weights": [math.log(weight) if weight else None for weight in lineage["weights"][place]],
            "log_z": None,
            "lam": None,
            **{name: lineage[name][place] for name in ("k", "rewards", "ess", "resampled", "ancestors")},
        }
        for place in range(last)
    ]
    sizes = {"particles": size, "steps": lineage["k"][-1]}
    return [{**start, **sizes}, *weighings, {"event": "end", "chosen": lineage["chosen"]}]


def of_weighings(weighings: Sequence[Weighing], chosen: int | None, *, pictures: bool) -> Lineage:
    """Make the lineage of a population from its events; of images with their thumbnails."""
    guesses = [list(weighing.guesses) for weighing in weighings]
    return {
        "k": [weighing.k for weighing in weighings],
        "ess": [round(weighing.ess, 3) for weighing in weighings],
        "resampled": [weighing.resampled for weighing in weighings],
        "ancestors": [list(weighing.ancestors) for weighing in weighings],
        "rewards": [[to_json(round(value, 4)) for value in weighing.rewards] for weighing in weighings],
        "weights": [[round(value, 4) for value in weighing.weights] for weighing in weighings],
        **({"texts": [[] for _ in guesses], "images": guesses} if pictures else {"texts": guesses}),
        "chosen": chosen,
    }


def _told(guesses: Sequence[Sequence[Any]], width: int | None) -> dict[str, list[list[str]]]:
    return {"texts": [[_cut(label(sample, place), width) for place, sample in enumerate(samples)] for samples in guesses]}


def _seen(guesses: Sequence[Sequence[Any]], side: int) -> dict[str, list[list[str]]]:
    from fktext.images.pictures import thumbnail

    images = [[thumbnail(image, side) for image in samples] if side else [] for samples in guesses]
    return {"texts": [[] for _ in guesses], "images": images}


def of_texts(population: Population) -> bool:
    """Tell whether the samples of a population are texts, not images."""
    from fktext.text import Text

    return isinstance(population.samples[0], Text)


def label(sample: Any, place: int) -> str:
    """Name a sample where it is listed: a text without its prompt, an image by its particle's place."""
    from fktext.text import Text

    return sample.continuation if isinstance(sample, Text) else f"particle-{place}"


def roots(ancestors: Sequence[Sequence[int]]) -> list[int]:
    """Count the particles of the start that have a descendant after each weighing.

    Args:
        ancestors: (K, N), see above.

    Example:
        >>> roots([[0, 0, 2], [2, 2, 1], [0, 1, 2]])
        [2, 2, 2]
    """
    counts, alive = [], list(range(len(ancestors[0])))
    for step in ancestors:
        alive = [alive[parent] for parent in step]
        counts.append(len(set(alive)))
    return counts


def survivors(ancestors: Sequence[Sequence[int]]) -> list[list[bool]]:
    """Say (K, N) which particles, as they were at each weighing, have a descendant at the last one."""
    living = [[True] * len(ancestors[-1])]
    for step in reversed(ancestors[:-1]):
        parents = {parent for parent, lives in zip(step, living[0], strict=True) if lives}
        living.insert(0, [particle in parents for particle in range(len(step))])
    return living


def line_of(ancestors: Sequence[Sequence[int]], particle: int | None) -> list[int | None]:
    """Follow a particle of the last weighing back: (K,) whom it descends from at each, itself at the end; of None, None.

    Example:
        >>> line_of([[0, 0, 2], [2, 1, 0], [0, 1, 2]], 0)
        [2, 2, 0]
    """
    line: list[int | None] = [particle]
    for step in reversed(ancestors[:-1]):
        line.insert(0, None if line[0] is None else step[line[0]])
    return line


def order(ancestors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Order particles so that no two branches of the tree cross: (K, N) the height of each at each weighing.

    Every particle has one parent, so it is enough to sort the particles of a weighing by the height of their parents; brothers
    stand in the order of their slots.

    Example:
        >>> order([[2, 0, 2], [0, 1, 2]])  # particle 1 goes on from 0, the two others from 2: it comes above them
        [[0, 1, 2], [1, 0, 2]]
    """
    heights = [list(range(len(ancestors[0])))]
    for step in ancestors[:-1]:
        ranked = sorted(range(len(step)), key=lambda particle, step=step: (heights[-1][step[particle]], particle))  # type: ignore[misc]
        heights.append([ranked.index(particle) for particle in range(len(step))])
    return heights


def check(lineage: Mapping[str, Any]) -> None:
    """Check that a lineage read from a file can be drawn.

    Raises:
        ValueError: it cannot; says why.
    """
    try:
        particles, weighings = len(lineage["ancestors"][0]), len(lineage["k"])
        for name in ("ess", "resampled", "ancestors", "rewards", "weights", "texts"):
            if len(lineage[name]) != weighings:
                raise ValueError(f"{name} has {len(lineage[name])} weighings, k has {weighings}")
        for name in ("ancestors", "rewards", "weights"):
            if any(len(step) != particles for step in lineage[name]):
                raise ValueError(f"{name} does not have {particles} particles at each weighing")
        images = lineage.get("images", [[]] * weighings)
        if len(images) != weighings or any(len(step) not in (0, particles) for step in images):
            raise ValueError(f"images are not of {particles} particles, or of none, at each of {weighings} weighings")
        if not all(0 <= parent < particles for step in lineage["ancestors"] for parent in step):
            raise ValueError("an ancestor is not one of the particles")
        if lineage["chosen"] is not None and not 0 <= lineage["chosen"] < particles:
            raise ValueError("the chosen one is not one of the particles")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"it is not a lineage: {error!r}") from error


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"
