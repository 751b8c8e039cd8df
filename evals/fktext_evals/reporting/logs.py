"""The event logs (`fktext.trace`) of a suite's chosen samples, for `fktext watch` and `fktext.trace.read`.

They are made of what rows keep of a population (`fktext_evals.lineage`): texts are cut at 200 characters, numbers are rounded to
four digits, and of several rewards there is the weighted sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fktext.files.writing import from_json, write_whole
from fktext.settings import described
from fktext.trace import End, Particle, Record, Run, Start, Weighing, to_line
from fktext_evals import lineage as lineages
from fktext_evals.running.results import Results, Row, RunError, writing
from fktext_evals.suites.suite import Method


def write(results: Results, folder: Path, prompts: int = 2) -> list[Path]:
    """Write `METHOD-N-PROMPT.jsonl` for each method that steers and each of the first prompts, counted from 1.

    Args:
        results: of texts or images, finished or not.
        folder: where to; made if it is not there.
        prompts: of how many prompts.

    Returns:
        The files.

    Raises:
        RunError: a row's lineage is damaged, or a file cannot be written.
    """
    files = []
    for method, row in _chosen(results, prompts):
        name = re.sub(r"[^\w.-]", "-", method.name)
        files.append(folder / f"{name}-{method.settings.particles}-{row['prompt_index'] + 1}.jsonl")
        lines = "".join(map(to_line, records(results, method, row)))
        with writing(files[-1]):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(files[-1], lines.encode())
    return files


def records(results: Results, method: Method, row: Row) -> Iterator[Record]:
    """Yield the log of a row that has a lineage.

    Raises:
        RunError: the lineage is damaged.
    """
    kept = row["lineage"]
    try:
        lineages.check(kept)
    except ValueError as error:
        raise RunError(f"a lineage is damaged: {error}") from error
    who, last = (row["prompt_index"], row["sample"]), len(kept["k"])
    size, pictures = len(kept["ancestors"][0]), "images" in kept
    settings = {**described(method.settings), "samples": results.suite.samples, "rewards": list(results.suite.rewards)}
    yield Run({"seed": row["seed"], "model": results.run["model"], "settings": settings}, 1)
    yield Start(
        population=who,
        prompt=row["prompt"],
        template=None,
        modality="image" if pictures else "text",
        names=("reward",),
        particles=size,
        steps=kept["k"][-1],
        weighings=last,
        board=tuple(kept.get("board", ())),
    )
    for place in range(last):
        yield Weighing(
            population=who,
            sweep=0,
            k=kept["k"][place],
            revealed=tuple(tuple(map(tuple, changes)) for changes in kept["revealed"][place]) if "revealed" in kept else (),
            guesses=tuple(kept["images" if pictures else "texts"][place]),
            values=(),
            rewards=tuple(map(from_json, kept["rewards"][place])),
            log_weights=tuple(map(_log, kept["weights"][place])),
            ess=kept["ess"][place],
            log_z=math.nan,
            lam=method.settings.lam,
            resampled=kept["resampled"][place],
            ancestors=tuple(kept["ancestors"][place]),
            ledger={},
        )
    costs = {name: row[name] for name in ("denoiser_rows", "reward_requests", "reward_calls", "seconds")}
    yield End(who, tuple(_particles(kept, row)), kept["chosen"], from_json(row["log_z"]), costs)


def _chosen(results: Results, prompts: int) -> Iterator[tuple[Method, Row]]:
    """Yield the rows that a report draws the lineages of."""
    for method in results.suite.methods:
        rows = [row for row in results.of(method.key) if row.get("lineage") and len(row["lineage"]["k"]) > 1]
        yield from ((method, row) for row in rows[:prompts])


def _particles(kept: Mapping[str, Any], row: Row) -> Iterator[Particle]:
    """Yield the finished samples."""
    size = len(kept["ancestors"][0])
    lines = [lineages.line_of(kept["ancestors"], place)[0] for place in range(size)]
    texts = [f"particle-{place}" for place in range(size)] if "images" in kept else kept["texts"][-1]
    for place, (text, root) in enumerate(zip(texts, lines, strict=True)):
        reward = from_json(kept["rewards"][-1][place])
        whole = text if "images" in kept else f"{row['spelled_prompt'] or row['prompt']}{text}"
        yield Particle(whole, text, reward, (), _log(kept["weights"][-1][place]), root or 0)


def _log(weight: float) -> float:
    return math.log(weight) if weight else -math.inf
