"""Score tokens by the gradient of a judge of finished texts, at the text that a particle seems to become.

A judge cannot read masks, and the choice of a token has no derivative. A straight-through estimator (Bengio et al. 2013,
arXiv 1308.3432) puts the likeliest token in every masked position, differentiates the reward there, and takes the derivative for
that of the masked position:

    s_iv = lambda <d reward / d e_i, E_v - e_i>,    E the judge's embeddings, e_i that of the token put at i.

This is to first order how lambda * reward would change if token v stood there. Sampler and judge share the tokens that are spelt
alike; others have no score. The denoiser is not differentiated through: it is the cheaper of the two gradients by which Ou, Pani
and Li 2025 (arXiv 2505.22524) draw tokens of masked diffusions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fktext.errors import UsageError
from fktext.masked.denoiser import Denoiser
from fktext.rewards import TokenGradient


class StraightThrough:
    """Take rewards to first order in their judges' tokens; a source of scores for `fktext.masked.guided.Guided`.

    Args:
        denoiser: the network.
        gradients: of the rewards.
        weights: of the rewards.
        lam: lambda, in nats per unit of reward.
        tokens: how those of the denoiser's that stand in texts are spelt, and their ids; all others are special.
        ends: those behind which nothing belongs to a text.

    Raises:
        UsageError: a judge spells no token as the denoiser does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        gradients: Sequence[TokenGradient],
        weights: Sequence[float],
        lam: float,
        tokens: Mapping[str, int],
        ends: Sequence[int],
    ) -> None:
        self._denoiser, self._gradients = denoiser, list(gradients)
        self._factors = [lam * weight for weight in weights]
        device = torch.device(str(denoiser.device))
        self._plain = torch.zeros(denoiser.vocab_size, dtype=torch.bool, device=device)
        self._plain[list(tokens.values())] = True
        self._ends = torch.tensor(list(ends), dtype=torch.int64, device=device)
        self._tables, rows = [], []
        for gradient in gradients:
            known, table = _shared(gradient, tokens, denoiser.vocab_size)
            self._tables.append(table)
            rows.append(torch.cat([table, torch.ones_like(known)], 1) * known)  # the 1 is for -<d reward / d e_i, e_i>
        self._rows = torch.cat(rows, 1).to(device)

    def slopes(self, ids: Tensor, t: Tensor) -> Tensor:
        """Guess, judge and differentiate: (R, L) ids at times (R,) -> (R, L, D), for each judge the gradient and -<gradient, e>."""
        x0 = self._guess(ids, t)
        ended = torch.isin(x0[:, 1:], self._ends).cumsum(1) > 0  # a first token may be BOS, and that the same as EOS
        present = self._plain[x0] & ~torch.nn.functional.pad(ended, (1, 0))
        parts = []
        with torch.inference_mode(False), torch.enable_grad():
            x0, present = x0.clone(), present.clone()  # tensors made in inference mode cannot be differentiated through
            for gradient, factor, table in zip(self._gradients, self._factors, self._tables, strict=True):
                embedded = table[x0.to(table.device)].requires_grad_()
                value = gradient.value(embedded, present.to(table.device))
                slope = torch.autograd.grad(factor * value.sum(), embedded)[0]
                parts += [slope, -(slope * embedded.detach()).sum(-1, keepdim=True)]
        return torch.cat(parts, -1).to(ids.device)

    def scores(self, slopes: Tensor) -> Tensor:
        """Map (P, D) slopes to (P, V)."""
        return slopes @ self._rows.T

    def _guess(self, ids: Tensor, t: Tensor) -> Tensor:
        """Put the likeliest token, or the end, in every masked position."""
        row, column = (ids == self._denoiser.mask_id).nonzero(as_tuple=True)
        logits = self._denoiser.logits(self._denoiser.encode(ids, t)[row, column - ids.shape[1]])
        may = self._plain.index_fill(0, self._ends, True)
        return ids.index_put((row, column), logits.masked_fill(~may, -torch.inf).argmax(-1))


def _shared(gradient: TokenGradient, tokens: Mapping[str, int], size: int) -> tuple[Tensor, Tensor]:
    """Return (V, 1) 1 where a judge knows a token, else 0; and (V, D) its embedding of each, the mean of all where it does not."""
    own = gradient.embeddings.detach().float()
    pairs = [(index, gradient.vocabulary[token]) for token, index in tokens.items() if token in gradient.vocabulary]
    if not pairs:
        raise UsageError("proposal 'straight-through' needs tokens that model and judge spell alike: they have none in common")
    here, there = torch.tensor(pairs, device=own.device).T
    table = own.mean(0).repeat(size, 1).index_copy(0, here, own[there])
    return own.new_zeros(size, 1).index_fill(0, here, 1.0), table
