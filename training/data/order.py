"""The order of a run's samples: endless batches of numbers that depend on the seed and the batch's number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from training.config import ConfigError


class Shuffled(Sampler[list[int]]):
    """Endless batches of numbers, a new seeded permutation per epoch: item `number % size` in epoch `number // size`.

    Starts at any batch, so that a run can resume. Of `world_size` processes each gets its share of every batch. Raises
    ConfigError if the batches do not fit.
    """

    def __init__(self, size: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if size < batch_size:
            raise ConfigError(f"optim.batch_size is {batch_size}, but a source has only {size} samples")
        if batch_size % world_size:
            raise ConfigError(
                f"optim.batch_size is {batch_size}; expected a multiple of the {world_size} processes that share it"
            )
        self.size, self.batch_size, self.seed, self.start = size, batch_size, seed, start
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batch, per_epoch = self.start, self.size // self.batch_size
        while True:
            epoch, position = divmod(batch, per_epoch)
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [epoch * self.size + index for index in chosen[self.share]]
            batch += 1


class EqualShares(Sampler[list[int]]):
    """Endless batches with as many items of each dataset, whatever the datasets' `sizes`; numbers count all datasets through.

    The items of one dataset follow each other in seeded permutations without end: a small dataset comes round more often, and
    within a batch where it has fewer items than its share. The datasets take turns in a batch, so that of `world_size`
    processes each gets equal shares too. Starts at any batch. Raises ConfigError if the batches do not fit.
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % (len(sizes) * world_size):
            raise ConfigError(
                f"optim.batch_size is {batch_size}; expected a multiple of {len(sizes) * world_size}, the product of "
                f"{len(sizes)} datasets of data.mix and {world_size} processes, or data.mixing: proportional"
            )
        self.sizes, self.seed, self.start = sizes, seed, start
        self.each = batch_size // len(sizes)
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __iter__(self) -> Iterator[list[int]]:
        firsts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        batch = self.start
        while True:
            turns = zip(*(self._drawn(dataset, batch) for dataset in range(len(self.sizes))), strict=True)
            yield [first + item for turn in turns for first, item in zip(firsts, turn, strict=True)][self.share]
            batch += 1

    def _drawn(self, dataset: int, batch: int) -> list[int]:
        """The items of one dataset in a batch."""
        size = self.sizes[dataset]
        places = range(batch * self.each, (batch + 1) * self.each)
        epochs = {place // size for place in places}
        orders = {epoch: np.random.default_rng([self.seed, dataset, epoch]).permutation(size) for epoch in epochs}
        return [int(orders[place // size][place % size]) for place in places]
