"""Remember finished blocks, so that a network that writes block after block runs only on the block that is being written.

A block-causal network never looks ahead of a block, so the keys and values of a finished one depend on the text up to its end and
on nothing that follows: remembered they are what would be computed again, not an approximation of it (Arriola et al. 2025, "Block
Diffusion", arXiv 2503.09573). They are kept by content, in a tree: a finished block hangs below the one before it.
Particles with the same beginning share its blocks, prompts with the same first lines too, and nothing has to travel with a particle
that is copied. A block that no particle has come by while the last one was written is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fktext.masked.denoiser import Denoiser
from fktext.smc.ledger import Ledger


class Past:
    """The finished blocks that one network call reads, and what it leaves of those that it finishes.

    Attributes:
        length: P, how many positions come before the call's own.
        written: of each layer the keys and values of the call's first positions, (R, H, kept, d).
    """

    def __init__(self, pools: Sequence[Sequence[Tensor]], pages: Tensor, kept: int) -> None:
        """Read pages (R, P / block) of the layers' pools, and keep the call's first `kept` positions."""
        self.length = pages.shape[1] * pools[0][0].shape[1] if pages.shape[1] else 0
        self.written: list[list[Tensor]] = []
        self._pools, self._pages, self._kept = pools, pages, kept

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Return all keys and values that a layer's queries may look at, given those of the call's own positions.

        Args:
            key, value: (R, H, n, d), the keys turned to their positions.
            layer: counted from 0, in this order. What transformers may add to it is not needed.

        Returns:
            (R, H, P + n, d) keys and values. They are put together for one layer at a time and given up after it.
        """
        if self._kept:
            self.written.append([new[:, :, : self._kept].detach() for new in (key, value)])
        if not self.length:
            return key, value
        self._pages = self._pages.to(key.device)
        old = [pool[self._pages].flatten(1, 2).transpose(1, 2) for pool in self._pools[layer]]
        return torch.cat([old[0], key], 2), torch.cat([old[1], value], 2)


@runtime_checkable
class Extending(Denoiser, Protocol):
    """A block-causal denoiser that can go on from finished blocks."""

    def extend(self, ids: Tensor, past: Past) -> Tensor:
        """Encode (R, n) tokens that come after the `past.length` positions before, two whole blocks or more where there are none.

        Every layer takes its keys and values from `past.update`.

        Returns:
            (R, n, D) hidden states.
        """
        ...


@dataclass
class _Node:
    """A finished block: where its keys and values are, when a row last came by it, and the blocks that follow it."""

    page: int
    period: int
    following: dict[bytes, _Node] = field(default_factory=dict)


class Cached:
    """Run a denoiser on the last block of its rows alone; of the blocks before, what is there is read and the rest computed.

    A block is computed once when it is finished, in the same call as the first of the block after it. Rows may begin differently,
    and particles be replaced: what a row reads is looked up by its tokens.

    Args:
        net: the denoiser; its `time_dependent` must be False, as keys and values of another noise level are others.
        block: tokens of a block.
        ledger: counts what is not computed as `cached_positions`.

    Attributes:
        computed: positions that went through the network.
    """

    time_dependent = False

    def __init__(self, net: Extending, block: int, ledger: Ledger | None = None) -> None:
        if net.time_dependent:
            raise ValueError("a network that looks at the noise level has no keys and values that stay")
        self.net, self.block, self.ledger = net, block, Ledger() if ledger is None else ledger
        self.vocab_size, self.mask_id, self.max_length = net.vocab_size, net.mask_id, net.max_length
        self.logits = net.logits
        self.computed = 0
        self._pools: list[list[Tensor]]
        self._paths: dict[bytes, Tensor]  # whole beginnings of the present depth that are known -> pages
        self._depth = self._period = 0  # finished blocks of a row; how often that has changed
        self._clear()

    @property
    def device(self) -> object:
        """See `fktext.texts.model.Network`."""
        return self.net.device

    @property
    def pages(self) -> int:
        """Count the blocks that are remembered."""
        return len(self._pools[0][0]) if self._pools else 0

    @property
    def nbytes(self) -> int:
        """Count the bytes of what is remembered: pages x block x layers x 2 x heads of keys x their width x bytes of a number."""
        return sum(pool.nbytes for layer in self._pools for pool in layer)

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) tokens, all blocks but the last finished, to (R, block, D) of the last one.

        Raises:
            ValueError: L is not a number of whole blocks.
        """
        if ids.shape[1] % self.block:
            raise ValueError(f"rows of {ids.shape[1]} tokens are not whole blocks of {self.block}")
        depth = ids.shape[1] // self.block - 1
        if depth != self._depth:
            self._forget()
            self._depth = depth
        if not depth:  # nothing to read, and nothing to leave
            self.computed += ids.numel()
            return self.net.encode(ids, t)
        keys = [row.tobytes() for row in ids[:, : depth * self.block].cpu().numpy()]
        waiting, order, parts = list(range(len(ids))), list[int](), []
        while waiting:
            waiting, groups = self._grouped(waiting, keys)
            for known, paths in groups.items():
                rows = list(paths)
                order += rows
                parts.append(self._run(ids[rows, known * self.block :], [keys[row] for row in rows], list(paths.values())))
        hidden = torch.cat(parts)
        return hidden if order == sorted(order) else hidden[torch.tensor(order, device=hidden.device).argsort()]

    def _grouped(self, waiting: list[int], keys: list[bytes]) -> tuple[list[int], dict[int, dict[int, Tensor]]]:
        """Sort rows by how many of their finished blocks are known: which row -> pages of those.

        Of rows that bring the same new blocks the first goes ahead; the others, which are returned too, find them there.
        """
        later, groups, new = [], dict[int, dict[int, Tensor]](), set[bytes]()
        for row in waiting:
            path = self._path(keys[row])
            if len(path) < self._depth:
                if keys[row] in new:
                    later.append(row)
                    continue
                new.add(keys[row])
            groups.setdefault(len(path), {})[row] = path
        return later, groups

    def _path(self, key: bytes) -> Tensor:
        """Return the pages of a row's finished blocks, as far as they are known, and note that a row came by them."""
        if (known := self._paths.get(key)) is not None:
            return known
        node, pages = self._root, []
        for block in self._split(key):
            if (found := node.following.get(block)) is None:
                break
            node = found
            node.period = self._period
            pages.append(node.page)
        path = torch.tensor(pages, dtype=torch.int64)
        if len(pages) == self._depth:
            self._paths[key] = path
        return path

    def _split(self, key: bytes) -> Iterator[bytes]:
        size = len(key) // self._depth
        return (key[at : at + size] for at in range(0, len(key), size))

    def _run(self, ids: Tensor, keys: list[bytes], paths: list[Tensor]) -> Tensor:
        """Encode rows from their first unknown block on: (R, n) -> (R, block, D)."""
        past = Past(self._pools, torch.stack(paths), ids.shape[1] - self.block)
        hidden = self.net.extend(ids, past)
        self.computed += ids.numel()
        self.ledger.cached_positions += len(ids) * past.length
        if past.written:
            self._add(keys, past)
        return hidden[:, -self.block :]

    def _add(self, keys: list[bytes], past: Past) -> None:
        """Put the blocks that a call has computed into the tree, each once."""
        known, chosen, count = past.length // self.block, [], self.pages
        for place, key in enumerate(keys):
            node = self._root
            for number, block in enumerate(self._split(key)):
                if block not in node.following:
                    chosen.append(place * (self._depth - known) + number - known)
                    node.following[block] = _Node(count, self._period)
                    count += 1
                node = node.following[block]
        if not self._pools:
            self._pools = [[self._pages(new)[:0] for new in layer] for layer in past.written]
        self._replace([[self._pages(new)[chosen] for new in layer] for layer in past.written])

    def _pages(self, new: Tensor) -> Tensor:
        """Cut (R, H, n, d) into pages, (R * n / block, block, H, d)."""
        return new.transpose(1, 2).reshape(-1, self.block, new.shape[1], new.shape[3])

    def _forget(self) -> None:
        """Drop the blocks that no row has come by since rows last grew."""
        nodes, kept = [self._root], list[int]()
        while nodes:
            node = nodes.pop()
            node.following = {block: child for block, child in node.following.items() if child.period == self._period}
            for child in node.following.values():
                kept.append(child.page)
                child.page = len(kept) - 1
                nodes.append(child)
        self._period += 1
        self._paths.clear()
        self._replace(kept=kept)

    def _replace(self, new: Sequence[Sequence[Tensor]] = (), kept: Sequence[int] | None = None) -> None:
        """Append pages to the pools, or keep some of them; where memory does not hold that, nothing is remembered."""
        try:
            for number, layer in enumerate(self._pools):
                for place, pool in enumerate(layer):
                    layer[place] = torch.cat([pool, new[number][place]]) if kept is None else pool[kept]
        except BaseException:
            self._clear()
            raise

    def _clear(self) -> None:
        self._root, self._pools, self._paths = _Node(-1, 0), list[list[Tensor]](), dict[bytes, Tensor]()
