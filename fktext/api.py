"""Generate from Python in one call: what is given may be a name, an object, or several.

populations = fktext.generate("tiny-mdlm", "sentiment", "The movie", particles=8)
print(populations[0].texts[populations[0].best()])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from fktext.errors import UsageError, unknown_name
from fktext.settings import (
    Average,
    KernelLike,
    LookAhead,
    Method,
    Part,
    Potential,
    PotentialName,
    Proposal,
    Resampler,
    ResamplerName,
    Schedule,
    Settings,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fktext.population import Population
    from fktext.rewards import Reward, Weighted
    from fktext.runs import Progress
    from fktext.texts.model import TextModel
    from fktext.texts.templates import Template

    Scores = Callable[[Sequence[str]], Tensor | Sequence[float]]
    RewardLike = str | Weighted | Reward | Scores
    PromptLike = str | Template


class Asked(TypedDict, total=False):
    """Name what `Settings` takes, for `generate` and `stream`."""

    particles: int
    samples: int
    length: int | None
    stride: int | None
    steps: int | None
    kernel: str | KernelLike | Part | None
    potential: PotentialName | Potential | Part
    lam: float
    resample_every: int | None
    schedule: Schedule | Part | None
    ess_threshold: float
    temper: float | None
    resampler: ResamplerName | Resampler | Part
    look_ahead: str | LookAhead | Part | None
    x0_samples: int
    x0_average: Average
    pseudo_count: float
    method: Method
    candidates: int | None
    sweeps: int
    proposal: Proposal
    guidance: float
    temperature: float | None
    top_p: float | None
    seed: int


def generate(
    model: str | TextModel,
    rewards: RewardLike | Sequence[RewardLike] = (),
    prompts: PromptLike | Sequence[PromptLike] = "",
    settings: Settings | None = None,
    *,
    device: str = "auto",
    offline: bool = False,
    batch_size: int | None = None,
    watch: bool = False,
    **asked: Unpack[Asked],
) -> list[Population]:
    """Generate texts, steered by rewards, and return their weighted populations.

    Args:
        model: a name for `fktext.load`, or a model.
        rewards: one or several, which add up. Each is a spec such as "toxicity:target=nontoxic=2", a `Weighted` (or a sum of
            them), an object with `score(texts) -> values`, or a function that is one. With none the texts are the model's own.
        prompts: one text to continue, "" for none, a `Template` to fill, or several of these.
        settings: what is asked for; or name its fields one by one, which come before those of `settings`.
        device: of a model and rewards that are named here: "auto" is CUDA where there is a GPU, else the CPU.
        offline: never touch a network.
        batch_size: most particles computed at once; it changes no result.
        watch: keep what happens to every particle, in `Population.events`, for `Population.show`.
        **asked: fields of `Settings`, such as `particles=8, lam=5, seed=1`. Kernel, potential, schedule, resampler and look-ahead
            may be objects, or names of what a plugin brings.

    Returns:
        `samples` populations for each prompt, in the order of the prompts.

    Raises:
        UsageError: an unknown name, a setting out of range, a prompt that does not fit.
        RewardError: a reward cannot be built, or failed.
        FktextError: anything else that went wrong, in a line.

    Example:
        >>> import fktext
        >>> def short(texts):
        ...     return [-0.1 * len(text) for text in texts]
        >>> [population] = fktext.generate("tiny-mdlm", short, "the cat", particles=4, length=8, seed=3)
        >>> len(population.texts), population.names
        (4, ('short',))
    """
    from fktext.population import Population

    how: dict[str, Any] = {"device": device, "offline": offline, "batch_size": batch_size, "watch": watch}
    events = stream(model, rewards, prompts, settings, **how, **asked)
    return [item for item in events if isinstance(item, Population)]


def stream(
    model: str | TextModel,
    rewards: RewardLike | Sequence[RewardLike] = (),
    prompts: PromptLike | Sequence[PromptLike] = "",
    settings: Settings | None = None,
    *,
    device: str = "auto",
    offline: bool = False,
    batch_size: int | None = None,
    guesses: bool = False,
    watch: bool = False,
    **asked: Unpack[Asked],
) -> Iterator[Progress | Population]:
    """Generate as `generate` does, and yield what happens meanwhile; its arguments and errors.

    Args:
        model, rewards, prompts, settings, device, offline, batch_size, **asked: see `generate`.
        guesses: keep what each particle was thought to become, in `Population.guesses`.
        watch: also tell it as it happens, in `Progress.events`; see `fktext.trace`.

    Yields:
        `Progress` after each weighing, and populations in order as their batches finish.
    """
    from fktext.models import load
    from fktext.texts.generate import generate as populations
    from fktext.texts.templates import Template

    given = list(rewards) if isinstance(rewards, Sequence) and not isinstance(rewards, str) else [rewards]
    wanted = _settings(settings, asked, steered=bool(given))
    place = _device(device)
    terms = [_term(reward, place, offline) for reward in given]
    network = load(model, device=place, offline=offline) if isinstance(model, str) else model
    asks = [prompts] if isinstance(prompts, str | Template) else list(prompts)
    yield from populations(network, terms, asks, wanted, batch_size=batch_size, guesses=guesses, watch=watch)


def _settings(settings: Settings | None, asked: Asked, *, steered: bool) -> Settings:
    """Put together what is asked for; without rewards it is the model alone, unless a method is named."""
    from fktext.plugins.parts import with_parts

    known = [item.name for item in fields(Settings)]
    if strange := [name for name in asked if name not in known]:
        raise unknown_name("setting", strange[0], known)
    given = with_parts(asked)
    if settings is None:
        return Settings(**{**({} if steered else {"method": "base"}), **given})
    return replace(settings, **given)


def _device(name: str) -> str:
    """Return the device of "auto"."""
    from fktext.batches import best_device

    return best_device() if name == "auto" else name


def _term(reward: Any, device: str, offline: bool) -> Weighted:
    """Make a weighted reward of what was given."""
    from fktext.plugins import load_plugins
    from fktext.rewards import Reward, RewardContext, Weighted

    if isinstance(reward, Weighted):
        return reward
    if isinstance(reward, str):
        return load_plugins().create(reward, RewardContext(device=device, offline=offline))
    if isinstance(reward, Reward):
        return Weighted(type(reward).__name__, reward)
    if callable(reward):
        return Weighted(getattr(reward, "__name__", type(reward).__name__), Function(reward))
    raise UsageError(f"a reward is a spec, an object with score(texts) or a function; got {type(reward).__name__}: {reward!r:.60}")


class Function:
    """Let a function be a reward.

    Args:
        function: maps (M,) samples to (M,) values, larger better.
    """

    def __init__(self, function: Callable[[Sequence[Any]], Tensor | Sequence[float]]) -> None:
        self._function = function

    def score(self, samples: Sequence[Any]) -> Tensor | Sequence[float]:
        """Return what the function does."""
        return self._function(samples)
