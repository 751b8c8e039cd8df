"""Hold what a user asks of a run, with the bounds of it, and what a run is when every number is named."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args

from fktext.errors import UsageError, unknown_name

if TYPE_CHECKING:  # these import torch, which a command line that is only asked for its help can do without
    from fktext.smc.lookahead import LookAhead as LookAhead
    from fktext.smc.potentials import Potential as Potential
    from fktext.smc.resamplers import Resampler as Resampler
    from fktext.smc.schedules import Schedule as Schedule
    from fktext.smc.steer import Plan, Stepper
else:  # what reads the types of the settings at run time takes them for anything
    LookAhead = Potential = Resampler = Schedule = object

PotentialName = Literal["difference", "max", "sum", "terminal"]  # of `fktext.smc.potentials`, and the next of `resamplers`
ResamplerName = Literal["multinomial", "systematic", "stratified", "residual", "ssp", "killing"]
Method = Literal["fk", "best-of-n", "base", "svdd", "beam", "particle-gibbs"]
SELECTING = ("svdd", "beam")  # by rules that are no resampling
STEERING = ("fk", *SELECTING, "particle-gibbs")  # on the way, not only at the end
CANDIDATES = 4  # of each parent, where a rule selects among them
Average = Literal["tilt", "reward"]
Proposal = Literal["base", "guided", "d-cbg", "straight-through"]
BY_VALUE = ("guided", "d-cbg")  # by the gradient of a learned value
LOOK_AHEADS = ("predictions", "value", "none")
WEIGHINGS = 20  # how often a run is weighed unless it says otherwise
CHOICES: dict[str, tuple[str, ...]] = {
    "potential": get_args(PotentialName),
    "resampler": get_args(ResamplerName),
    "method": get_args(Method),
    "x0_average": get_args(Average),
    "proposal": get_args(Proposal),
}
# What may be an object of the user's or of a plugin, and the attributes that show that it is one.
PARTS: dict[str, tuple[str, ...]] = {
    "kernel": ("name", "build", "steerable"),
    "potential": ("init", "__call__"),
    "resampler": ("counts", "draws", "__call__"),
    "schedule": ("weighings",),
    "look_ahead": ("__call__",),
}


class KernelLike(Protocol):
    """A reverse process that a model can be run with; of masked models `fktext.masked.kernels.Kernel`."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def steerable(self) -> bool:
        """Whether it can be steered."""
        ...


@dataclass(frozen=True)
class Part:
    """An object of a plugin under the name it was asked for by, in a place of `Settings` that takes objects."""

    name: str
    object: Any


def given(part: Any) -> Any:
    """Return what a setting says: the object of a `Part`, and anything else itself."""
    return part.object if isinstance(part, Part) else part


def described(settings: Settings | Run) -> dict[str, Any]:
    """Return the settings as JSON has them: in the place of an object its name, or how it describes itself."""
    found = {item.name: getattr(settings, item.name) for item in fields(settings)}
    for name in PARTS.keys() & found.keys():
        part = found[name]
        if isinstance(part, Part):
            found[name] = part.name
        elif part is not None and not isinstance(part, str):
            kind = type(part)
            found[name] = repr(part) if hasattr(part, "__dataclass_fields__") else f"{kind.__module__}.{kind.__qualname__}"
    return found


def _bounded(default: Any, least: float, most: float) -> Any:
    """Declare a number with its bounds, which the command line and suites read too; None is allowed where it is the default."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Settings:
    """Hold what is asked beside model, rewards and prompts; None is the model's own. `TextModel.resolve` makes a `Run` of it.

    Attributes:
        particles: N, particles per population.
        samples: populations per prompt.
        length: tokens of the whole sequence, prompt included. A template has its own length.
        stride: how far the window moves in a text longer than the model takes; None takes half of the model's length.
        steps: T, reverse steps (of each block or window, where a text is written in several).
        kernel: which reverse process, one of the model's `kernels`; None takes the first of them. A masked model also takes
            a `fktext.masked.kernels.Kernel`.
        potential: "difference", "max", "sum" or "terminal"; or a `fktext.smc.potentials.Potential`.
        lam: lambda of the target p(x) exp(lambda r(x)), at least 0; a reward's negative weight steers the other way.
        resample_every: steps between weighings; None weighs WEIGHINGS times.
        schedule: when to weigh, a `fktext.smc.schedules.Schedule`, in the place of `resample_every`.
        ess_threshold: a population resamples when its effective sample size is below this share of N; 0 never, above 1 always.
        temper: the share of N that a weighing before the end leaves effective, by holding back some of the tilt; below
            `ess_threshold`. None holds back nothing. See `fktext.smc.tempering`.
        resampler: a name of `fktext.smc.RESAMPLERS`, or a `fktext.smc.Resampler`.
        look_ahead: what unfinished particles are thought to become: "predictions" asks the rewards about guesses of x0; "value"
            asks the values that are installed for model and rewards, "value:DIR" (or several, with commas) those of folders (see
            `fktext.values`), "value:fit" fits them first, to 500 texts of the model, which the run pays for; "none" says nothing.
            None takes "value" where every reward has one installed, else "predictions". Or a `fktext.smc.lookahead.LookAhead`.
        x0_samples: predictions of x0 per particle and weighing.
        x0_average: "tilt" averages exp(lambda r) over the predictions, "reward" averages exp(r).
        pseudo_count: how much a prediction of reward -inf is doubted before the end, in predictions; see
            `fktext.smc.lookahead`. Where rewards are finite it does nothing.
        method: "fk"; "best-of-n" weighs finished samples only; "base" is one particle, whose rewards are only measured;
            "particle-gibbs" iterates "fk" (see `fktext.smc.conditional`); "svdd" and "beam" select without weights, by a law that
            is not known (see `fktext.smc.baselines`).
        candidates: M, particles that start from one parent; N is a multiple of it. Of the methods "fk", "svdd" and "beam"; None
            takes 1 for the first, CANDIDATES for the others. See `fktext.smc.candidates`.
        sweeps: S, of the method "particle-gibbs", the first included.
        proposal: what tokens are drawn from: the "base" model; "guided", tilted by the learned value's gradient, with the exact
            correction in the weights (see `fktext.masked.guided`); or "d-cbg", the same without the correction, a baseline
            whose law is not the tilted one. These two go with a look-ahead by value. Or "straight-through", corrected too, by the
            gradient of the rewards themselves, of which each must have one (see `fktext.masked.straight_through`); with any
            look-ahead. All are of the method "fk".
        guidance: c, the strength of that tilt; 1 where the value is trusted.
        temperature: divides the logits of p(x0); None takes the model's own (1 but for the embedded models). 0, always the
            likeliest token, goes with the confidence kernels alone.
        top_p: nucleus of p(x0); None takes the model's own (1 but for SSD-LM).
        seed: of everything random.

    Raises:
        UsageError: a number out of its bounds, or an unknown name.
    """

    particles: int = _bounded(16, 1, 1_000_000)
    samples: int = _bounded(1, 1, 100_000)
    length: int | None = _bounded(None, 1, 100_000)
    stride: int | None = _bounded(None, 1, 100_000)
    steps: int | None = _bounded(None, 1, 100_000)
    kernel: str | KernelLike | Part | None = None
    potential: PotentialName | Potential | Part = "difference"
    lam: float = _bounded(10.0, 0, math.inf)
    resample_every: int | None = _bounded(None, 1, 100_000)
    schedule: Schedule | Part | None = None
    ess_threshold: float = _bounded(0.9, 0, 1000)
    temper: float | None = _bounded(None, 1e-9, 1)
    resampler: ResamplerName | Resampler | Part = "systematic"
    look_ahead: str | LookAhead | Part | None = None
    x0_samples: int = _bounded(4, 1, 1000)
    x0_average: Average = "tilt"
    pseudo_count: float = _bounded(0.1, 1e-9, 1000)
    method: Method = "fk"
    candidates: int | None = _bounded(None, 1, 1000)
    sweeps: int = _bounded(4, 1, 1000)
    proposal: Proposal = "base"
    guidance: float = _bounded(1.0, 0, 1000)
    # beyond these float32 logits, divided by it, overflow
    temperature: float | None = _bounded(None, 1e-30, 1e30)
    top_p: float | None = _bounded(None, 1e-9, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if (value is None and default is None) or (name == "temperature" and value == 0):
                continue
            _check_number(name, value, least, most, whole=name in WHOLE)
        self._check_names()
        if self.temper is not None and self.temper >= min(self.ess_threshold, 1):
            why = f"ess_threshold, {self.ess_threshold:g}, or no population would ever resample"
            raise UsageError(f"temper must be below 1 and below {why}; got {self.temper:g}")
        self._check_method()

    def _check_names(self) -> None:
        """Refuse names that nobody knows, and objects that cannot be what they are given for."""
        for name, attributes in PARTS.items():
            part = given(getattr(self, name))
            absent = [each for each in attributes if not hasattr(part, each)]
            if part is not None and not isinstance(part, str) and absent:
                raise UsageError(f"{name} is a {type(part).__name__}, which has no {absent[0]}: {part!r:.60}")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if (isinstance(value, str) or name not in PARTS) and value not in known:
                raise unknown_name(name.replace("_", " "), str(value), known)
        if isinstance(self.schedule, str):
            raise unknown_name("schedule", self.schedule, ())
        ahead = self.look_ahead
        if isinstance(ahead, str) and not ahead.startswith("value:") and ahead not in LOOK_AHEADS:
            raise unknown_name("look-ahead", ahead, [*LOOK_AHEADS, "value:DIR", "value:fit"])

    def _check_method(self) -> None:
        """Refuse what a method has no use for."""
        if self.method in SELECTING and self.look_ahead == "none":
            raise UsageError(f"method {self.method!r} selects by what a look-ahead says: look_ahead must not be 'none'")
        if self.method == "particle-gibbs" and self.particles < 2:
            raise UsageError(f"method 'particle-gibbs' keeps one particle: particles must be at least 2, got {self.particles}")
        if self.proposal != "base" and self.method != "fk":
            raise UsageError(f"proposal {self.proposal!r} is of method 'fk', got method {self.method!r}")
        if self.proposal in BY_VALUE and self.look_ahead in ("predictions", "none"):
            raise UsageError(
                f"proposal {self.proposal!r} takes its gradient from a learned value, got look_ahead {self.look_ahead!r}"
            )
        each = _candidates(self)
        if self.method == "particle-gibbs" and each > 1:
            raise UsageError(f"method 'particle-gibbs' has no candidates, got {each}")
        if self.method in ("fk", *SELECTING) and self.particles % each:
            raise UsageError(f"particles must be a multiple of the {each} candidates of a parent, got {self.particles}")


def _check_number(name: str, value: Any, least: float, most: float, *, whole: bool) -> None:
    """Refuse what is no number, and a number out of its bounds."""
    if not issubclass(type(value), numbers.Integral if whole else numbers.Real):
        raise UsageError(f"{name} must be a {'whole ' * whole}number, got {value!r} ({type(value).__name__})")
    if value < least:
        low = "above 0" if 0 < least < 1e-6 and value <= 0 else f"at least {least:g}"
        high = f" and at most {most:,g}" if most <= 1000 else ""
        other = "; to steer the other way, give the reward a negative weight" if name == "lam" and value < 0 else ""
        raise UsageError(f"{name} must be {low}{high}, got {value}{other}")
    if value > most:
        raise UsageError(f"{name} must be at most {most:,g}, got {value}")
    if not value < math.inf:  # or it is nan
        raise UsageError(f"{name} must be a finite number, got {value}")


def _candidates(asked: Settings) -> int:
    """Return M: what was asked for, or the method's own."""
    return asked.candidates or (CANDIDATES if asked.method in SELECTING else 1)


BOUNDS: dict[str, tuple[float, float]] = {
    item.name: (item.metadata["least"], item.metadata["most"]) for item in fields(Settings) if item.metadata
}
WHOLE = frozenset(item.name for item in fields(Settings) if item.name in BOUNDS and str(item.type).startswith("int"))


@dataclass(frozen=True)
class Run:
    """Name every number of a run, whatever it generates; see `Settings` for the meaning of each."""

    particles: int
    samples: int
    steps: int
    potential: PotentialName | Potential | Part
    lam: float
    resample_every: int
    schedule: Schedule | Part | None
    ess_threshold: float
    temper: float | None
    resampler: ResamplerName | Resampler | Part
    look_ahead: str | LookAhead | Part | None
    x0_samples: int
    x0_average: Average
    pseudo_count: float
    method: Method
    candidates: int
    sweeps: int
    proposal: Proposal
    guidance: float
    seed: int

    @classmethod
    def of(cls, asked: Settings, steps: int, **more: Any) -> Self:
        """Name what was asked: `steps` and `more` in place of None, the cadence and the particles."""
        named = {
            "steps": steps,
            "resample_every": min(asked.resample_every or max(1, round(steps / WEIGHINGS)), steps),
            "particles": 1 if asked.method == "base" else asked.particles,
            "candidates": _candidates(asked),
            **more,
        }
        return cls(**{item.name: named[item.name] if item.name in named else getattr(asked, item.name) for item in fields(cls)})

    def plan(self) -> Plan:
        """Return what the engine is told; learned values, which belong to a model, are put in by whoever has them.

        Method "base" only measures its rewards, so its lambda is 0. With lambda 0 all weights are equal, and nothing resamples.
        """
        from fktext.smc.lookahead import Nothing, Predictions
        from fktext.smc.potentials import POTENTIALS
        from fktext.smc.schedules import At, Every
        from fktext.smc.steer import Plan

        steered = self.method in STEERING
        threshold = 1.0 if self.method in SELECTING else self.ess_threshold
        ahead: LookAhead = Predictions(self.x0_samples, self.x0_average, self.pseudo_count)
        if self.look_ahead is not None and not isinstance(self.look_ahead, str):
            ahead = given(self.look_ahead)
        lam = 0.0 if self.method == "base" else self.lam
        schedule: Schedule = given(self.schedule) or Every(self.resample_every)
        potential = self.potential if steered else "terminal"
        return Plan(
            particles=self.particles,
            schedule=schedule if steered else At(()),
            potential=POTENTIALS[potential] if isinstance(potential, str) else given(potential),
            resampler=self._resampler(),
            lam=lam,
            ess_threshold=threshold if lam else 0.0,
            temper=self.temper,
            look_ahead=ahead if self.look_ahead != "none" else Nothing(),
        )

    def _resampler(self) -> Resampler:
        """Return how offspring are drawn, or selected."""
        from fktext.smc.baselines import beam, best_candidate
        from fktext.smc.candidates import candidates
        from fktext.smc.resamplers import RESAMPLERS

        if self.method in SELECTING:
            return {"svdd": best_candidate, "beam": beam}[self.method](self.candidates)
        scheme = RESAMPLERS[self.resampler] if isinstance(self.resampler, str) else given(self.resampler)
        return candidates(scheme, self.candidates if self.method == "fk" else 1)

    def stepper(self) -> Stepper:
        """Return what runs the plan: the engine's loop, or what the method wraps around it."""
        from fktext.smc.baselines import selection_steps
        from fktext.smc.conditional import particle_gibbs_steps
        from fktext.smc.steer import steer_steps

        if self.method == "particle-gibbs":
            return partial(particle_gibbs_steps, sweeps=self.sweeps)
        return selection_steps if self.method in SELECTING else steer_steps

    @property
    def by_value(self) -> bool:
        """Whether particles are looked at by a learned value that is named."""
        return self.method in STEERING and isinstance(self.look_ahead, str) and self.look_ahead.startswith("value")

    @property
    def rounds(self) -> int:
        """How often the whole way from noise to samples is gone."""
        return self.sweeps if self.method == "particle-gibbs" else 1


@dataclass(frozen=True)
class TextRun(Run):
    """A run of a text model; `stride` is None where one window holds the text."""

    length: int
    stride: int | None
    kernel: str | KernelLike | Part
    temperature: float
    top_p: float
