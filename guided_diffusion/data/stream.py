"""Batches for training: cases from an endless seeded stream, one rater's mask of each."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TrainingError
from ..system.workers import WorkerDied, background_pool

AHEAD = 2  # batches that each reading process has in hand or finished


@runtime_checkable
class CaseLike(Protocol):
    """One case, as `lidcloader.Case` is."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def image(self) -> Float[Tensor, "C H W"]:
        """The image in [0, 1]."""

    @property
    def raters(self) -> Float[Tensor, "R H W"]:
        """All raters' masks, 0 or 1."""


@runtime_checkable
class Cases(Protocol):
    """What can be read from: cases by their numbers."""

    def __getitem__(self, index: int) -> CaseLike: ...


@dataclass(frozen=True)
class Batch:
    """Some cases of one size."""

    ids: list[str]
    image: Float[Tensor, "B C H W"]
    raters: Float[Tensor, "B R H W"]  # a case with fewer raters than the largest is filled up with zeros
    num_raters: Int[Tensor, " B"]


def collate(cases: Sequence[CaseLike]) -> Batch:
    """Cases of one size -> Batch, whatever their numbers of raters."""
    counts = torch.tensor([len(case.raters) for case in cases])
    raters = torch.zeros(len(cases), int(counts.max()), *cases[0].image.shape[1:])
    for row, case in zip(raters, cases, strict=True):
        row[: len(case.raters)] = case.raters
    channels = len(cases[0].image)
    repeated = all(case.image.stride(0) == 0 for case in cases)  # one plane, expanded: it is enough to copy that
    image = torch.stack([case.image[:1] if repeated else case.image for case in cases]).expand(-1, channels, -1, -1)
    return Batch([case.id for case in cases], image, raters, counts)


def pick_raters(batch: Batch, u: Float[Tensor, " B"], K: int) -> Float[Tensor, "B*{K} 1 H W"]:
    """K raters' masks of each case, [B K, 1, H, W], those of a case in a row, by uniform numbers u [B] in [0, 1).

    Each of its raters is equally likely, and none is taken twice unless the case has fewer than K.
    """
    u = (u[:, None] + torch.arange(K) / K).flatten() % 1
    rows = torch.arange(len(batch.ids)).repeat_interleave(K)
    counts = batch.num_raters[rows]
    chosen = torch.minimum((u * counts).long(), counts - 1)  # float32 may round up to the count
    return batch.raters[rows, chosen][:, None]


class EndlessSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of case numbers without end, cut from one endless stream of shuffled passes over the cases.

    The stream is a function of the seed alone. At each step the processes take a global batch of it, each its shard;
    `start` is the place of the stream at which to begin, so that a run can start at any step. Each case takes `repeats`
    places, and is in a batch once for them.
    """

    def __init__(
        self,
        num_cases: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        *,
        repeats: int = 1,
    ) -> None:
        self.num_cases, self.batch_size, self.seed, self.repeats = num_cases, batch_size, seed, repeats
        self.rank, self.world_size, self.start = rank, world_size, start
        self._pass, self._order = (
            -1,
            np.arange(0),
        )  # the pass over the cases, and its order, of the last place asked for

    def __iter__(self) -> Iterator[list[int]]:
        start = self.start
        while True:
            yield [self.case_at(place) for place in self.places(start)[:: self.repeats]]
            start += self.world_size * self.batch_size

    def places(self, start: int) -> range:
        """This process's places of the global batch that begins at `start`."""
        first = start + self.rank * self.batch_size
        return range(first, first + self.batch_size)

    def case_at(self, place: int) -> int:
        """The number of the case at a place of the stream."""
        number, offset = divmod(place // self.repeats, self.num_cases)
        if number != self._pass:
            self._pass = number
            self._order = np.random.default_rng((self.seed, number)).permutation(self.num_cases)
        return int(self._order[offset])


def endless_batches(
    dataset: Cases,
    sampler: EndlessSampler,
    num_workers: int,
    place: Callable[[], int],
    on_death: Callable[[str], object],
) -> Iterator[Batch]:
    """Yield the sampler's batches from place() on, without end. Reading processes that die are replaced.

    num_workers  processes that read ahead; 0: this process reads each batch when it is asked for
    place        () -> the place of the stream at which the next batch begins
    on_death     called with a line each time that readers died

    TrainingError: they died twice before the same batch.
    """
    died_at = None
    while True:
        sampler.start = place()
        if not num_workers:
            yield from (collate([dataset[index] for index in indices]) for indices in sampler)
        try:
            yield from _read_ahead(dataset, sampler, num_workers)
        except WorkerDied as death:
            if place() == died_at:
                raise TrainingError(
                    f"a process that reads cases died again before a batch was read ({death}); "
                    "is memory short? --num_workers 0 reads in the training process"
                ) from death
            died_at = place()
            on_death(f"a process that reads cases died ({death}); new ones are started")


def _read_ahead(dataset: Cases, sampler: Iterable[list[int]], processes: int) -> Iterator[Batch]:
    """Yield the batches in their order, read by several processes; WorkerDied: one of them was killed."""
    waiting: collections.deque[Future[Batch]] = collections.deque()
    with background_pool(processes, functools.partial(_keep, dataset)) as pool:
        for indices in sampler:
            waiting.append(pool.submit(_read, indices))
            if len(waiting) > AHEAD * processes:
                yield waiting.popleft().result()


# -- in a reading process ---------------------------------------------------------------------------------------------

_kept: list[Cases] = []  # the dataset, which is forked with the process: sending it for each batch would copy the cases


def _keep(dataset: Cases) -> None:
    torch.set_num_threads(1)  # the cores are for the training, and the threads of the parent were not forked
    _kept.append(dataset)


def _read(indices: Sequence[int]) -> Batch:
    return collate([_kept[0][index] for index in indices])
