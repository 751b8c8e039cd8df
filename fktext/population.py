"""Hold what a run returns: a weighted population of samples for each prompt and repetition."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fktext.errors import PopulationError, UsageError
from fktext.player import Frame, page
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise
from fktext.smc.steer import Step
from fktext.text import Text
from fktext.trace import End, Event, Particle, Start, weighing

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Member:
    """Name a population that is to be made.

    Attributes:
        prompt_index, sample_index: which prompt, which of its populations.
        key: the 64-bit key of its noise.
        prompt: the prompt itself, "" where it is a template.
        template: the template as it was written, or None.
    """

    prompt_index: int
    sample_index: int
    key: int
    prompt: str
    template: str | None = None

    def __str__(self) -> str:
        asked = f"prompt {self.prompt!r}" if self.template is None else f"template {self.template!r}"
        return f"{asked}, sample {self.sample_index}"


class Distinct(NamedTuple):
    """Hold equal samples of a population together.

    Attributes:
        sample: one of them.
        weight: the sum of their weights W.
        reward: what each is worth.
        particles: how many they are.
    """

    sample: Any
    weight: float
    reward: float
    particles: int


@dataclass(frozen=True, repr=False)
class Population:
    """Hold the weighted particles of one prompt's one repetition, at the end.

    Attributes:
        member: which one it is.
        samples: N texts or images.
        names: the P rewards; `values` (N, P) what each gave, `rewards` (N,) their weighted sum.
        log_w: (N,) normalised log-weights; all -inf in a dead population.
        log_z: log of the unbiased estimate of E_p[exp(lambda r)], -inf in a dead population; NaN where the method estimates none,
            and after several sweeps that of the first.
        roots: (N,) the particle at step 0 each sample descends from.
        steps: every weighing of this population: tensors of `fktext.smc.steer.Step` without their population axis.
        ledger: cost of the batch of populations this one was computed in, divided by their number.
        guesses: at every weighing, the prediction of x0 with the highest reward of each of the N particles; empty unless asked for.
        events: what happened to it, see `fktext.trace`: its start and its weighings; empty unless it was watched.
    """

    member: Member
    samples: list[Any]
    names: tuple[str, ...]
    values: Tensor
    rewards: Tensor
    log_w: Tensor
    log_z: float
    roots: Tensor
    steps: tuple[Step, ...]
    ledger: Ledger
    guesses: tuple[tuple[Any, ...], ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def prompt_index(self) -> int:
        """The index of its prompt."""
        return self.member.prompt_index

    @property
    def sample_index(self) -> int:
        """Its index among the prompt's populations."""
        return self.member.sample_index

    @property
    def prompt(self) -> str:
        """The prompt itself, "" where it is a template."""
        return self.member.prompt

    @property
    def template(self) -> str | None:
        """The template that was filled, as it was written, or None."""
        return self.member.template

    @property
    def key(self) -> int:
        """The 64-bit key of its noise."""
        return self.member.key

    @property
    def texts(self) -> list[Text]:
        """N texts.

        Raises:
            TypeError: its samples are something else.
        """
        if strange := [sample for sample in self.samples if not isinstance(sample, Text)]:
            raise TypeError(f"the samples of this population are no texts but of type {type(strange[0]).__name__}")
        return self.samples

    @property
    def dead(self) -> bool:
        """Whether every sample has weight zero, its reward being -inf: there is none to return."""
        return bool((self.log_w == -math.inf).all())

    def best(self) -> int:
        """Return the particle with the highest reward, the first among equals.

        Raises:
            PopulationError: the population is dead.
        """
        self._check_alive()
        return int(self.rewards.argmax()) if self.names else 0

    def draw(self) -> int:
        """Draw a particle in proportion to its weight: a sample whose law tends to the tilted one as N grows.

        Raises:
            PopulationError: the population is dead.
        """
        self._check_alive()
        uniform = Noise.of([self.key], 1).uniform(streams.RETURN, 0, 0)
        cumulative = self.log_w.exp().cumsum(0)
        return int(torch.searchsorted(cumulative / cumulative[-1], uniform.cpu())[0])

    def unique_roots(self) -> int:
        """Count the particles of step 0 that have descendants."""
        return len(self.roots.unique())

    def obituary(self) -> str:
        """Say on one line that a population is dead, and why."""
        size, noun = len(self.samples), "text" if isinstance(self.samples[0], Text) else "image"
        every = f"all {size} {noun}s have" if size > 1 else f"the {noun} has"
        return f"{self.member}: {every} a reward of -inf, so there is none to return"

    def posterior(self) -> list[Distinct]:
        """Merge equal samples: their weights are the estimate of the tilted law, the largest first.

        Samples that cannot be compared, such as images, are each their own.
        """
        places: defaultdict[Any, list[int]] = defaultdict(list)
        for place, sample in enumerate(self.samples):
            places[str(sample) if isinstance(sample, Text) else place].append(place)
        weights = self.log_w.exp()
        found = [
            Distinct(self.samples[same[0]], float(weights[same].sum()), float(self.rewards[same[0]]), len(same))
            for same in places.values()
        ]
        return sorted(found, key=lambda item: -item.weight)

    def end(self, chosen: int | None = None) -> End:
        """Return the event that ends it.

        Args:
            chosen: the particle that is returned; the best where None is given, and none of a dead population.
        """
        texts = [sample if isinstance(sample, Text) else None for sample in self.samples]
        numbers = zip(self.rewards.tolist(), self.values.tolist(), self.log_w.tolist(), self.roots.tolist(), strict=True)
        particles = tuple(
            Particle(
                str(self.samples[place]),
                f"particle-{place}" if text is None else text.continuation,
                reward,
                tuple(values),
                log_weight,
                root,
            )
            for place, (text, (reward, values, log_weight, root)) in enumerate(zip(texts, numbers, strict=True))
        )
        best = None if self.dead else self.best() if chosen is None else chosen
        return End((self.prompt_index, self.sample_index), particles, best, self.log_z, asdict(self.ledger))

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per particle: sample, weight, log_weight, reward, a column for each of several rewards, and root."""
        import pandas

        texts = [str(sample) if isinstance(sample, Text) else sample for sample in self.samples]
        columns = {"sample": texts, "weight": self.log_w.exp().tolist(), "log_weight": self.log_w.tolist()}
        columns |= {"reward": self.rewards.tolist(), "root": self.roots.tolist()}
        columns |= {name: self.values[:, number].tolist() for number, name in enumerate(self.names)}
        return pandas.DataFrame(columns)

    def plot(self) -> Figure:
        """Draw how the run went: the effective sample size, and what rewards the particles were thought to be worth, by step.

        Raises:
            UsageError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UsageError("plots need matplotlib: pip install 'fktext[report]'") from error

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        steps = [step.k for step in self.steps]
        upper.plot(steps, [float(step.ess) for step in self.steps], marker=".")
        for step in self.steps:
            if bool(step.resampled):
                upper.axvline(step.k, color="0.85", zorder=0)
        upper.set(ylabel="effective sample size", ylim=(0, len(self.samples) * 1.05), title=f"{self.member}: grey, resampled")
        rewards = torch.stack([step.reward for step in self.steps]).double()
        lower.plot(
            steps, rewards.clamp(min=rewards[rewards.isfinite()].min() if rewards.isfinite().any() else 0), color="0.7", lw=0.7
        )
        lower.plot(steps, rewards.max(1).values, marker=".", label="best")
        lower.set(xlabel="reverse steps", ylabel="reward")
        lower.legend(frameon=False)
        return figure

    def show(self) -> Frame:
        """Play the particles in a frame of a notebook: masks become words, what is dropped fades, copies slide from their parents.

        What the tokens were on the way is there if the population was watched (`fktext.generate(..., watch=True)`); else rewards,
        weights and lineages are.
        """
        events = self.events or tuple(self._told())
        return Frame(page([*events, self.end()], str(self.member)), 230 + 42 * len(self.samples))

    def _told(self) -> Iterator[Event]:
        """Yield what is known of a population that was not watched."""
        who, size, last = (self.prompt_index, self.sample_index), len(self.samples), self.steps[-1].k
        yield Start(who, self.prompt, self.template, "text", self.names, size, last, len(self.steps))
        for place, step in enumerate(self.steps):
            known = self.guesses[place] if self.guesses else self.samples if step.k == last else ()
            yield weighing(who, step, guesses=[getattr(sample, "continuation", "") for sample in known])

    def __repr__(self) -> str:
        shown = "dead" if self.dead else f"best {str(self.samples[self.best()])[:60]!r}"
        return f"<Population of {len(self.samples)}: {self.member}; log Z {self.log_z:.4g}, {shown}>"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        rows = [
            f"<tr><td style='text-align:left'>{escape(str(item.sample))}</td><td>{item.weight:.3f}</td>"
            f"<td>{item.reward:.4g}</td><td>{item.particles}</td></tr>"
            for item in self.posterior()
        ]
        head = "".join(f"<th>{name}</th>" for name in ("sample", "weight", "reward", "particles"))
        caption = f"<caption>{escape(str(self.member))}; log Z = {self.log_z:.4g}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _check_alive(self) -> None:
        if self.dead:
            raise PopulationError(self.sample_index, self.obituary())
