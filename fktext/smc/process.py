"""Say what the engine asks of a sampler and of what judges its samples, and copy particles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise

State = TypeVar("State")


class Features(NamedTuple):
    """What a network computed of M particles, for a learned value.

    Attributes:
        hidden: (M, L, D) its last hidden states.
        unknown: (M,) float32, which share of the sample's positions is not yet known.
    """

    hidden: Tensor
    unknown: Tensor


class ReverseProcess(Protocol[State]):
    """A discrete-time reverse diffusion over M particles; step 0 is noise, step `num_steps` is a finished sample.

    A state is a dataclass whose tensors all lead with axis M, and everything that must follow a particle (network caches,
    contexts, histories) lives in it, so that `gather` is all that resampling ever does.
    """

    num_steps: int
    ledger: Ledger

    def init(self, noise: Noise) -> State:
        """Return the M particles at step 0."""
        ...

    def advance(self, state: State, k: int, k_next: int, noise: Noise) -> State:
        """Take every particle from step k to step k_next, in the process's own best order."""
        ...

    def predict(self, state: State, k: int, noise: Noise, samples: int) -> tuple[Any, State]:
        """Draw `samples` guesses of x0 per particle given its state at step k, or take the state itself at the last step.

        Returns:
            The guesses, leading axis M * samples (particle-major), or M at the last step; and the state, in which whatever the
            network computed is kept for the next `advance`.
        """
        ...

    def decode(self, x0: Any) -> Sequence[Any]:
        """Return what the reward sees: a sample per row of x0."""
        ...


@runtime_checkable
class Featured(Protocol[State]):
    """A reverse process whose network computes what a learned value can use."""

    def features(self, state: State, k: int) -> tuple[Features, State]:
        """Return what the network computes of every particle at step k, and the state, in which it is kept for `advance`."""
        ...


@runtime_checkable
class Proposing(Protocol):
    """A reverse process that moves by a proposal q in the place of its own law p, and keeps account of the difference.

    Wrappers of a process pass `log_ratio` on: without it the engine takes q for p.
    """

    def log_ratio(self, state: Any) -> Tensor:
        """Return (M,) float64, in nats: the sum over all draws of a particle's lineage so far of log p - log q.

        It is a tensor of the state, so `gather` makes it follow its particle. q must be positive where p is.
        """
        ...


class Scorer(Protocol):
    """Judge samples by P rewards, as the loop asks it; `fktext.rewards.Scorer` is one that does.

    Attributes:
        names: of the P rewards.
        ledger: what judging has cost.
    """

    names: tuple[str, ...]
    ledger: Ledger

    def __call__(self, samples: Sequence[Any], where: str = "") -> Tensor:
        """Map (M,) samples to (M, P) float64 values, finite or -inf; `where` is for messages of errors."""
        ...

    def weighted(self, values: Tensor) -> Tensor:
        """Return (..., P) values, each times its reward's weight."""
        ...


def gather(state: State, ancestors: Tensor) -> State:
    """Copy particles: row i of the result is row ancestors[i] of `state`, for each of its tensors.

    Args:
        state: a dataclass whose tensors lead with axis M, or a state that knows better: one with a `gather` of its own.
        ancestors: (M,) int64.
    """
    if hasattr(state, "gather"):
        copied: State = state.gather(ancestors)
        return copied
    return map_tensors(state, lambda tensor: tensor[ancestors])


def bare(state: State) -> State:
    """Return a state without what a network said of the particles, at any depth: it can be asked again."""
    if hasattr(state, "gather") or not is_dataclass(state):
        return state
    state = state.forget() if hasattr(state, "forget") else state
    inside = {item.name: getattr(state, item.name) for item in fields(state)}
    parts = {name: bare(value) for name, value in inside.items() if is_dataclass(value)}
    return replace(state, **parts) if parts else state  # type: ignore[type-var]


def map_tensors(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Change each tensor of a dataclass, in the order of its fields; those of dataclasses in it too."""
    changes: dict[str, Any] = {}
    for item in fields(state):  # type: ignore[arg-type]
        value = getattr(state, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = change(value)
        elif is_dataclass(value):
            changes[item.name] = map_tensors(value, change)
    return replace(state, **changes)  # type: ignore[type-var]
