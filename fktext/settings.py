"""What a user decides about a run, and what the engine is told of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

from fktext.errors import UsageError, unknown_name
from fktext.potentials import POTENTIALS
from fktext.schedules import At, Every, Schedule
from fktext.smc import RESAMPLERS
from fktext.steer import Plan

if TYPE_CHECKING:
    from fktext.text_model import TextModel

Method = Literal["fk", "best-of-n", "base"]
WEIGHINGS = 20  # how often a run is weighed unless it says otherwise


@dataclass(frozen=True)
class Settings:
    """Everything beside model, rewards and prompts that decides what is generated.

    Attributes:
        particles: N, particles per population.
        samples: populations per prompt.
        length: tokens of the whole sequence, prompt included; None takes the model's own.
        steps: T, reverse steps (of each block, where a model writes block by block); None takes the model's own.
        kernel: which reverse process, one of the model's `kernels`; None takes the first of them.
        potential: "difference", "max", "sum" or "terminal".
        lam: lambda of the target p(x) exp(lambda r(x)).
        resample_every: steps between weighings; None weighs WEIGHINGS times.
        ess_threshold: a population resamples when its effective sample size is below this share of N.
        resampler: a name of `fktext.smc.RESAMPLERS`.
        x0_samples: predictions of x0 per particle and weighing.
        x0_average: "tilt" averages exp(lambda r) over the predictions, "reward" averages exp(r).
        method: "fk"; "best-of-n" weighs finished samples only; "base" is best-of-n with one particle.
        temperature: divides the logits of p(x0); None takes the model's own (1 but for the embedded models).
        top_p: nucleus of p(x0); None takes the model's own (1 but for SSD-LM).
        seed: of everything random.
    """

    particles: int = 16
    samples: int = 1
    length: int | None = None
    steps: int | None = None
    kernel: str | None = None
    potential: str = "difference"
    lam: float = 10.0
    resample_every: int | None = None
    ess_threshold: float = 0.5
    resampler: str = "systematic"
    x0_samples: int = 4
    x0_average: Literal["tilt", "reward"] = "tilt"
    method: Method = "fk"
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("particles", "samples", "x0_samples", "length", "steps", "resample_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        for name, value, fine in (
            ("lam", self.lam, math.isfinite(self.lam)),
            ("ess_threshold", self.ess_threshold, self.ess_threshold >= 0),
            ("temperature", self.temperature, self.temperature is None or 0 < self.temperature < math.inf),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1),
        ):
            if not fine:
                raise UsageError(f"{name} is {value}, out of range")
        for kind, value, known in (
            ("potential", self.potential, POTENTIALS),
            ("resampler", self.resampler, RESAMPLERS),
            ("method", self.method, get_args(Method)),
            ("x0 average", self.x0_average, ("tilt", "reward")),
        ):
            if value not in known:
                raise unknown_name(kind, value, known)

    def for_model(self, model: TextModel) -> Settings:
        """These settings with the model's own values in the place of None, the cadence and the particles spelled out.

        Raises:
            UsageError: the model has no such kernel.
        """
        steps, kernel = self.steps or model.default_steps, self.kernel or model.kernels[0]
        if kernel not in model.kernels:
            raise unknown_name(f"kernel of model {model.name!r}:", kernel, model.kernels)
        spelled = {
            "length": self.length or model.default_length,
            "steps": steps,
            "kernel": kernel,
            "top_p": self.top_p or model.default_top_p,
            "resample_every": min(self.resample_every or max(1, round(steps / WEIGHINGS)), steps),
            "temperature": model.default_temperature if self.temperature is None else self.temperature,
            "particles": 1 if self.method == "base" else self.particles,
        }
        return Settings(**{**asdict(self), **spelled})

    def plan(self) -> Plan:
        """What the engine is told; settings that name every number (see `for_model`)."""
        steered = self.method == "fk"
        schedule: Schedule = Every(self.resample_every or 1) if steered else At(())
        return Plan(
            particles=self.particles,
            schedule=schedule,
            potential=POTENTIALS[self.potential if steered else "terminal"],
            resampler=RESAMPLERS[self.resampler],
            lam=self.lam,
            ess_threshold=self.ess_threshold,
            x0_samples=self.x0_samples,
            x0_average=self.x0_average,
        )
