"""Sample masked diffusion one token after another in a random order, so that all particles come equally far.

In continuous time the order in which positions are revealed is uniform, whatever their times are, and a network that does not look
at the time does not know them either (Zheng et al. 2024, arXiv 2409.02908; Ou et al. 2024, arXiv 2406.03736). So the times may be
left out: this is the law of `first_hitting`, of an any-order autoregressive model. What is gained is that after k of T steps every
particle has revealed the same number of its F positions, floor(k F / T): particles that are compared at a weighing know equally
much, where under clocks of their own some know twice as much as others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fktext.masked.process import MaskedDiffusion, MaskedState
from fktext.smc import noise as streams
from fktext.smc.noise import Noise


@dataclass
class OrderedState(MaskedState):
    """Hold M particles.

    Attributes:
        free: (M, L) bool, the positions that were masked at step 0.
    """

    free: Tensor


class AnyOrder(MaskedDiffusion):
    """Reveal one position at a time in a uniform order, equally many by a given step; see `MaskedDiffusion`.

    A network that depends on time is asked at the share of positions that are still masked.
    """

    def start(self, ids: Tensor) -> OrderedState:
        """See `MaskedDiffusion`."""
        state = super().start(ids)
        return OrderedState(**{item.name: getattr(state, item.name) for item in fields(state)}, free=ids == self.denoiser.mask_id)

    def _reveals(self, state: MaskedState, k: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return when each position is revealed, as `MaskedDiffusion` does.

        Of its F free positions every slot reveals those first whose numbers, uniform on (0, 1), are largest. A slot that took over
        another's particle may hold a masked position whose own number has been passed: it gets a new one, uniform below the last
        number passed, as those are that the slot has not come to yet. So the order of what is masked stays uniform.
        """
        assert isinstance(state, OrderedState)
        ids, free = state.ids, state.free
        total = free.sum(-1, keepdim=True)
        due = torch.arange(self.num_steps + 1, device=ids.device) * total // self.num_steps  # (M, T + 1): revealed after k steps
        position = torch.arange(ids.shape[1], device=ids.device)
        number = noise.uniform(streams.REVEAL, 0, position)
        passed = due[:, k : k + 1]
        if k:
            ordered = torch.where(free, number, -1.0).sort(-1, descending=True).values
            last = torch.where(passed > 0, ordered.gather(-1, (passed - 1).clamp(min=0)), 1.0)
            number = torch.where(number < last, number, last * noise.uniform(streams.REVEAL, k, position))
        masked = ids == self.denoiser.mask_id
        place = torch.where(masked, -number, 1.0).argsort(-1).argsort(-1) + passed  # how many are revealed before it
        step = torch.searchsorted(due, place, right=True)
        moment = (total - place).double() / total.clamp(min=1)
        return torch.where(masked, step, self.num_steps + 1), torch.where(masked, moment, -1.0)
