"""What a user decides about a run, and what the engine is told of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

from fktext.errors import UsageError, unknown_name
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import PSEUDO_COUNT
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every, Schedule
from fktext.smc.steer import Plan

if TYPE_CHECKING:
    from fktext.texts.model import TextModel

Method = Literal["fk", "best-of-n", "base"]
WEIGHINGS = 20  # how often a run is weighed unless it says otherwise


@dataclass(frozen=True)
class Settings:
    """Everything beside model, rewards and prompts that decides what is generated.

    Attributes:
        particles: N, particles per population.
        samples: populations per prompt.
        length: tokens of the whole sequence, prompt included; None takes the model's own. A template has a length of its own.
        stride: how far the window moves in a text longer than the model takes; None takes half of the model's length.
        steps: T, reverse steps (of each block or window, where a text is written in several); None takes the model's own.
        kernel: which reverse process, one of the model's `kernels`; None takes the first of them.
        potential: "difference", "max", "sum" or "terminal".
        lam: lambda of the target p(x) exp(lambda r(x)).
        resample_every: steps between weighings; None weighs WEIGHINGS times.
        ess_threshold: a population resamples when its effective sample size is below this share of N.
        resampler: a name of `fktext.smc.RESAMPLERS`.
        x0_samples: predictions of x0 per particle and weighing.
        x0_average: "tilt" averages exp(lambda r) over the predictions, "reward" averages exp(r).
        pseudo_count: how much a prediction of reward -inf is doubted before the end, in predictions; see
            `fktext.smc.lookahead`. Where rewards are finite it does nothing.
        method: "fk"; "best-of-n" weighs finished samples only; "base" is best-of-n with one particle.
        temperature: divides the logits of p(x0); None takes the model's own (1 but for the embedded models). 0, always the
            likeliest token, goes with the confidence kernels alone.
        top_p: nucleus of p(x0); None takes the model's own (1 but for SSD-LM).
        seed: of everything random.
    """

    particles: int = 16
    samples: int = 1
    length: int | None = None
    stride: int | None = None
    steps: int | None = None
    kernel: str | None = None
    potential: str = "difference"
    lam: float = 10.0
    resample_every: int | None = None
    ess_threshold: float = 0.5
    resampler: str = "systematic"
    x0_samples: int = 4
    x0_average: Literal["tilt", "reward"] = "tilt"
    pseudo_count: float = PSEUDO_COUNT
    method: Method = "fk"
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("particles", "samples", "x0_samples", "length", "stride", "steps", "resample_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        for name, value, fine in (
            ("lam", self.lam, math.isfinite(self.lam)),
            ("ess_threshold", self.ess_threshold, self.ess_threshold >= 0),
            ("pseudo_count", self.pseudo_count, 0 < self.pseudo_count < math.inf),
            # beyond these float32 logits, divided by it, are no numbers
            ("temperature", self.temperature, self.temperature in (None, 0) or 1e-30 <= (self.temperature or 0) <= 1e30),
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
            UsageError: the model has no such kernel, or no use for the stride; or the kernel cannot be steered.
        """
        steps, kernel = self.steps or model.default_steps, self.kernel or model.kernels[0]
        if kernel not in model.kernels:
            raise unknown_name(f"kernel of model {model.name!r}:", kernel, model.kernels)
        temperature = model.default_temperature if self.temperature is None else self.temperature
        ordered = kernel.startswith("confidence")
        if ordered and self.method == "fk":
            raise UsageError(
                f"kernel {kernel!r} cannot be steered by method 'fk': which positions stay masked depends on the model's own "
                "guesses, so it does not reverse a masking process: its texts do not follow p(x), and predictions drawn from "
                f"p(x0 | x_t) say nothing of how it goes on. Use kernel {model.kernels[0]!r}, or method 'best-of-n' or 'base'"
            )
        if temperature == 0 and not ordered:
            raise UsageError(f"temperature 0 leaves kernel {kernel!r} nothing to draw: only the confidence kernels take it")
        length = self.length or model.default_length
        spelled = {
            "length": length,
            "stride": model.stride(length, self.stride),
            "steps": steps,
            "kernel": kernel,
            "top_p": self.top_p or model.default_top_p,
            "resample_every": min(self.resample_every or max(1, round(steps / WEIGHINGS)), steps),
            "temperature": temperature,
            "particles": 1 if self.method == "base" else self.particles,
        }
        return Settings(**{**asdict(self), **spelled})

    def plan(self) -> Plan:
        """What the engine is told; settings that name every number (see `for_model`).

        Method "base" only measures its rewards, so its lambda is 0. With lambda 0 all weights are equal, and nothing resamples.
        """
        steered = self.method == "fk"
        lam = 0.0 if self.method == "base" else self.lam
        schedule: Schedule = Every(self.resample_every or 1) if steered else At(())
        return Plan(
            particles=self.particles,
            schedule=schedule,
            potential=POTENTIALS[self.potential if steered else "terminal"],
            resampler=RESAMPLERS[self.resampler],
            lam=lam,
            ess_threshold=self.ess_threshold if lam else 0.0,
            x0_samples=self.x0_samples,
            x0_average=self.x0_average,
            pseudo_count=self.pseudo_count,
        )
