"""Running a suite: every method on every prompt and seed, judged, and written down as it comes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fktext
from fktext.errors import RewardError, UsageError
from fktext_evals import results
from fktext_evals.results import Results, Row, RowFile, to_json
from fktext_evals.suite import Method, Suite, load

if TYPE_CHECKING:  # these import torch
    from fktext.generate import Population, Progress
    from fktext.plugins import Registry
    from fktext.rewards import Scorer, Text
    from fktext.text_model import TextModel

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "detoxify")


def run(
    suite: Suite | str,
    *,
    out: str | os.PathLike[str],
    model: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int | None = None,
    offline: bool = False,
    shard: tuple[int, int] | None = None,
    registry: Registry | None = None,
) -> Results:
    """Run a suite, or go on with a run that was interrupted.

    The work is split into prompts x seeds; of each, every method is run and its texts are judged and written before the next, so an
    unfinished run compares all methods on the prompts it has. A text depends on the suite, the model and its seed alone: not on
    what was there already, on shards, or on the batch size.

    Args:
        suite: a `Suite`, or a name or path for `fktext_evals.suite.load`.
        out: the run's folder; made where there is none.
        model: in place of the suite's.
        device, dtype, offline: see `fktext.models.load`; "cuda" is the process's own under torchrun (LOCAL_RANK).
        batch_size: most particles computed at once.
        shard: (i, n): do the i-th of n parts, from 1; default (RANK + 1, WORLD_SIZE) of the environment, else all.
        registry: rewards by name; default the installed ones.

    Returns:
        All there is in the folder now, by other processes too.

    Raises:
        UsageError: a bad suite, an unknown name, or a folder with another run; before anything is generated.
        RewardError: a reward or judge failed. RunError: the disk is full, say. What is written stays.
    """
    from fktext.generate import Population
    from fktext.models import load as load_model
    from fktext.plugins import load_plugins
    from fktext.rewards import RewardContext, Scorer

    suite = suite if isinstance(suite, Suite) else load(suite)
    suite = replace(suite, model=model or suite.model)
    part, parts = _shard(shard)
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    registry = registry or load_plugins()
    context = RewardContext(device=device, offline=offline, batch_size=batch_size or RewardContext.batch_size)
    terms = [registry.create(spec, context) for spec in suite.rewards]
    judges = [registry.create(judge.reward, context) for judge in suite.judges]
    text_model = load_model(suite.model, device=device, dtype=dtype, offline=offline)
    suite = replace(
        suite, methods=tuple(replace(method, settings=method.settings.for_model(text_model)) for method in suite.methods)
    )
    for method in suite.methods:
        assert method.settings.length is not None
        for prompt in suite.prompts:
            text_model.template(prompt, method.settings.length)

    folder = Path(out)
    identity = {
        "fktext": fktext.__version__,
        "suite": suite.as_table(),
        "model": {"name": suite.model, "digest": text_model.digest, "dtype": dtype},
        # a reward that can tell its weights' digest has an attribute of that name
        "digests": {term.name: getattr(term.reward, "digest", None) for term in (*terms, *judges)},
    }
    results.create(folder, identity)
    with RowFile(folder / f"rows-{part}-of-{parts}.jsonl") as file:
        there = {results.key(row) for row in results.read(folder).rows}
        work = _Work(suite, text_model, Scorer(terms), Scorer(judges), batch_size)
        units = [(seed, index) for seed in suite.seeds for index in range(len(suite.prompts))][part - 1 :: parts]
        wanted = {
            (method.key, seed, index)
            for seed, index in units
            for method in suite.methods
            if any((*method.key, seed, index, sample) not in there for sample in range(suite.samples))
        }
        if wanted:
            results.append_session(folder, _session(device, batch_size, (part, parts)))
        progress = _Progress(suite.name, sum(particles for (_, particles), _, _ in wanted))
        for seed, index in units:
            for method in suite.methods:
                if (method.key, seed, index) in wanted:
                    populations = []
                    for item in work.generate(method, seed, index):
                        if isinstance(item, Population):
                            populations.append(item)
                        else:
                            progress.show(method.settings.particles * item.done / item.total)
                    file.append(row for row in work.rows(method, seed, index, populations) if results.key(row) not in there)
                    progress.add(method.settings.particles)
    return results.read(folder)


@dataclass(frozen=True)
class _Work:
    """What is needed to make rows."""

    suite: Suite
    model: TextModel
    rewards: Scorer
    judges: Scorer
    batch_size: int | None

    def generate(self, method: Method, seed: int, index: int) -> Iterator[Progress | Population]:
        """All samples of a method for one prompt and seed.

        Always all of them, even if some are there already: their costs are shared, and come out the same only if the work is.
        """
        from fktext.generate import generate

        settings = replace(method.settings, seed=seed, samples=self.suite.samples)
        terms = () if settings.method == "base" else self.rewards.terms
        return generate(self.model, terms, [self.suite.prompts[index]], settings, batch_size=self.batch_size)

    def rows(self, method: Method, seed: int, index: int, populations: Sequence[Population]) -> list[Row]:
        """What was generated, judged."""
        prompt, settings = self.suite.prompts[index], method.settings
        which = [item.best() if self.suite.returns == "best" else item.draw() for item in populations]
        texts = [item.texts[place] for item, place in zip(populations, which, strict=True)]
        judged = [self._judged(text) for text in texts]
        where = f", judging {method.name} at {settings.particles} particles, prompt {prompt!r}, seed {seed}"
        rewards = self.rewards.total(self.rewards(texts, where)).tolist()
        verdicts = self.judges(judged, where).tolist()
        return [
            {
                "method": method.name,
                "particles": settings.particles,
                "seed": seed,
                "prompt_index": index,
                "prompt": prompt,
                "sample": population.sample_index,
                "text": str(text),
                "continuation": short.continuation,
                "reward": to_json(reward),
                "judges": self._verdict(verdict, short, where),
                **_ancestry(population),
                **_cost(population),
            }
            for population, text, short, reward, verdict in zip(populations, texts, judged, rewards, verdicts, strict=True)
        ]

    def _judged(self, text: Text) -> Text:
        """The text as far as judges see it: `judge_tokens` of the model's tokens after the prompt."""
        from fktext.rewards import Text

        continuation, tokens = text.continuation, self.suite.judge_tokens
        if tokens is not None:
            ends = [end for _, end in self.model.tokenizer.encode(continuation, add_special_tokens=False).offsets]
            continuation = continuation[: ends[tokens - 1]] if len(ends) > tokens else continuation
        return Text(text.prompt + continuation, prompt=text.prompt)

    def _verdict(self, values: Sequence[float], text: Text, where: str) -> dict[str, float | None]:
        for judge, value in zip(self.suite.judges, values, strict=True):
            if value > 0:
                raise RewardError(
                    f"judge {judge.name!r} ({judge.reward}) returned {value:g}{where} ({str(text)[:40]!r}...). "
                    "A judge must give a log-probability, at most 0."
                )
        return {judge.name: to_json(value) for judge, value in zip(self.suite.judges, values, strict=True)}


def _ancestry(population: Population) -> dict[str, Any]:
    return {
        "log_z": to_json(population.log_z),
        "unique_roots": population.unique_roots(),
        "ess": [round(float(step.ess), 3) for step in population.steps],
        "resampled": sum(bool(step.resampled) for step in population.steps),
    }


def _cost(population: Population) -> dict[str, float]:
    names = ("denoiser_rows", "reward_requests", "reward_calls", "seconds")
    return {name: asdict(population.ledger)[name] for name in names}


def _shard(given: tuple[int, int] | None) -> tuple[int, int]:
    """Which part of how many, from 1."""
    if given is None:
        try:
            given = int(os.environ.get("RANK", "0")) + 1, int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError as error:
            raise UsageError(f"RANK and WORLD_SIZE in the environment must be numbers: {error}") from error
    if not 1 <= given[0] <= given[1]:
        raise UsageError(f"shard {given[0]}/{given[1]} is out of range: expected i/n with 1 <= i <= n")
    return given


def _session(device: str, batch_size: int | None, shard: tuple[int, int]) -> dict[str, Any]:
    import torch

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "shard": "/".join(map(str, shard)),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "commit": _commit(Path(fktext.__file__)),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _commit(file: Path) -> str | None:
    """The git commit of a source file, "-dirty" if the checkout has changes; None if git does not track it."""
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.decode().strip()


class _Progress:
    """How far it is and how long it may take, on stderr: a line that changes on a terminal, else a line now and then."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total  # of particles: they are what takes the time
        self._done, self._started = 0, time.monotonic()
        self._shown = self._started
        self._terminal = sys.stderr.isatty()

    def add(self, particles: int) -> None:
        """Some are done."""
        self._done += particles
        if self._done == self._total:
            self._say(f"done in {_clock(time.monotonic() - self._started)}", end="\n")

    def show(self, more: float) -> None:
        """How far the present ones are; as often as a reader can bear."""
        now, done = time.monotonic(), self._done + more
        if now - self._shown >= (0.2 if self._terminal else 30):
            self._shown, spent = now, now - self._started
            left = _clock(spent * (self._total - done) / done)
            self._say(f"{done / self._total:.0%}, {_clock(spent)} so far, about {left} left", end="" if self._terminal else "\n")

    def _say(self, text: str, end: str) -> None:
        start = "\r\033[K" if self._terminal else ""
        print(f"{start}{self._name}: {text}", end=end, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
