"""Runs that a page asks for: base, best-of-n and steered from the same noise, in a thread that a person can stop and reach into."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fktext.errors import FktextError, UsageError
from fktext.plugins.registry import BUILTIN
from fktext.trace import Event, Start, Weighing, plain

if TYPE_CHECKING:  # these import torch
    from fktext.plugins.registry import Registry, RewardEntry
    from fktext.rewards import Weighted
    from fktext.texts.model import TextModel

# The rewards and options that a page may ask for: none names a file, code or another model, and none can take for ever, as a
# pattern can. Whatever is not listed, a plugin's reward among it, has to be allowed when the server is started.
OFFERED: Mapping[str, tuple[str, ...]] = {
    "cola": ("max_tokens",),
    "json": ("penalty",),
    "keywords": ("words", "avoid", "need", "penalty"),
    "length": ("words", "min", "max", "penalty"),
    "perplexity": ("reduce", "prompt", "tokens", "stride"),
    "sentiment": ("label", "max_tokens"),
    "similarity": ("to",),
    "toxicity": ("target", "max_tokens"),
}
MOST_REWARDS = 8
UNSTEERED = ("base", "best-of-n")  # the columns before the steered one


class Reward(BaseModel):
    """A reward that a page asks for: a spec without a weight, and the weight."""

    model_config = ConfigDict(extra="forbid")

    spec: str = Field(min_length=1, max_length=300)
    weight: float = Field(1.0, ge=-1000, le=1000, allow_inf_nan=False)


class Asked(BaseModel):
    """What a page asks for; see `fktext.Settings`."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", max_length=300)
    prompt: str = Field("", max_length=2000)
    rewards: list[Reward] = Field(min_length=1, max_length=MOST_REWARDS)
    particles: int = Field(8, ge=2, le=64)
    lam: float = Field(10.0, ge=0, le=1000, allow_inf_nan=False)
    look_ahead: Literal["", "value", "predictions", "none"] = ""
    method: Literal["fk", "svdd", "beam"] = "fk"
    length: int | None = Field(None, ge=2, le=512)
    seed: int = Field(0, ge=0, lt=2**63)
    paused: bool = False


class Act(BaseModel):
    """What a hand does: go on, stop at the next weighing, take one weighing; or reach in (`fktext.smc.hand`)."""

    model_config = ConfigDict(extra="forbid")

    what: Literal["go", "pause", "step", "drop", "fork", "pin", "unpin", "weigh"]
    particle: int = Field(0, ge=0)
    weights: list[float] = Field(default_factory=list, max_length=MOST_REWARDS)


def offered(entry: RewardEntry, allowed: Collection[str] = ()) -> Collection[str] | None:
    """List the options of a reward that a page may set, None where it may not ask for the reward.

    Args:
        entry: the reward.
        allowed: full names, `distribution:name`, of those that may be had with every option.
    """
    if entry.modality != "text":
        return None
    if entry.qualified in allowed:
        return (*entry.options(), *entry.common)
    own = OFFERED.get(entry.name) if entry.distribution == BUILTIN else None
    return None if own is None else (*own, *entry.common)


def terms_of(asked: Asked, registry: Registry, device: str, allowed: Collection[str] = ()) -> list[Weighted]:
    """Build the rewards that are asked for, of those that are offered.

    Raises:
        UsageError: another reward or option, or one that is not known.
    """
    from dataclasses import replace

    from fktext.rewards import RewardContext

    terms = []
    for each in asked.rewards:
        spec = registry.parse(each.spec)
        entry = registry.resolve(spec.name)
        options = offered(entry, allowed)
        withheld = [name for name, _ in spec.options if name in entry.options() and name not in (options or ())]
        if options is None or withheld:
            what = f"reward {each.spec!r}" if options is None else f"option {withheld[0]!r} of reward {entry.name!r}"
            how = f"start fktext play with --allow-rewards {entry.name}, or use fktext generate"
            raise UsageError(f"{what} is not offered here: {how}")
        terms.append(replace(registry.create(spec, RewardContext(device=device, offline=True)), weight=each.weight))
    return terms


class Run:
    """Run in a thread of its own what a page has asked for.

    Args:
        model, terms, asked: what to run.
    """

    def __init__(self, model: TextModel, terms: Sequence[Weighted], asked: Asked) -> None:
        from fktext.smc.hand import Hand

        self._model, self._terms, self._asked = model, list(terms), asked
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._change = threading.Condition()
        self._steps = 0 if asked.paused else -1  # weighings that may still be taken; -1 for all
        self._stopped = False
        self.hand = Hand(asked.particles)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End at the next weighing, and wait for that."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._thread.join()

    def act(self, act: Act) -> None:
        """Do what a page asks for in the middle of the run.

        Raises:
            UsageError: there is no such particle or reward. RewardError: a weight is 0 or not finite.
        """
        with self._change:
            if act.what in ("go", "pause", "step"):
                self._steps = {"go": -1, "pause": 0, "step": 1}[act.what]
            elif self._asked.method != "fk":
                raise UsageError(f"a hand reaches into method 'fk' alone, not into {self._asked.method!r}")
            elif act.what == "weigh":
                if len(act.weights) != len(self._terms):
                    raise UsageError(f"the run has {len(self._terms)} rewards, and {len(act.weights)} weights came")
                self.hand.weigh({term.name: weight for term, weight in zip(self._terms, act.weights, strict=True)})
            elif act.what in ("pin", "unpin"):
                self.hand.pin(act.particle, on=act.what == "pin")
            else:
                {"drop": self.hand.drop, "fork": self.hand.fork}[act.what](act.particle)
            self._change.notify_all()

    def said(self, seconds: float) -> dict[str, Any] | None:
        """Return what happened next: an event with its column; None when all has; or {} if nothing has for so long."""
        try:
            return self._said.get(timeout=seconds)
        except queue.Empty:
            return {}

    def _run(self) -> None:
        try:
            for column in ("base", "best-of-n", self._asked.method):
                started = time.perf_counter()
                steps = 0
                for event in self._events(column):
                    steps = event.steps if isinstance(event, Start) else steps
                    weighed = event if column not in UNSTEERED and isinstance(event, Weighing) else None
                    if weighed:
                        self.hand.saw(weighed.ancestors)
                    self._said.put({"column": column, **plain(event), "seconds": time.perf_counter() - started})
                    if weighed and weighed.k < steps:  # after the last there is nothing to reach into
                        self._wait()
                    if self._stopped:
                        return
        except FktextError as error:
            self._said.put({"event": "error", "line": " ".join(str(error).split())})
        except Exception as error:  # whatever it is, the page has to be told that nothing more comes
            self._said.put({"event": "error", "line": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        finally:
            self._said.put(None)

    def _events(self, column: str) -> Iterator[Event]:
        """Run a column: base, one particle, and best-of-n without a hand, the other with one."""
        from fktext.population import Population
        from fktext.settings import Settings
        from fktext.texts.generate import generate

        asked = self._asked
        settings = Settings(
            method=column,  # type: ignore[arg-type]
            particles=1 if column == "base" else asked.particles,
            lam=asked.lam,
            look_ahead=(asked.look_ahead or None) if column not in UNSTEERED else None,
            length=asked.length,
            seed=asked.seed,
        )
        hand = self.hand if column == "fk" else None
        for item in generate(self._model, self._terms, [asked.prompt], settings, watch=True, hand=hand):
            yield from [item.end()] if isinstance(item, Population) else item.events

    def _wait(self) -> None:
        """Wait until the next weighing may be taken."""
        with self._change:
            if self._steps == 0:
                self._said.put({"event": "paused"})
            self._change.wait_for(lambda: self._steps != 0 or self._stopped)
            self._steps -= self._steps > 0
