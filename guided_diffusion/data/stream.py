"""Training batches from an endless seeded stream of cases, and random choice of rater masks."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError, TrainingError
from ..system.workers import WorkerDied, background_pool

AHEAD = 2  # batches that each loading process prefetches


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
    def raters(self) -> Float[Tensor, "R *K H W"]:
        """All raters' masks, 0 or 1: [R, H, W] for one class, and [R, K, H, W] for several."""

    @property
    def colour(self) -> bool:
        """Whether the first three channels are red, green and blue."""

    @property
    def ignored(self) -> Bool[Tensor, "H W"] | None:
        """The pixels that count in no loss; None: no pixel."""


@runtime_checkable
class Cases(Protocol):
    """A collection of cases, accessed by index."""

    def __getitem__(self, index: int) -> CaseLike: ...


@dataclass(frozen=True)
class Batch:
    """A batch of cases of the same size.

    raters  [B, R, H, W] for one class, and [B, R, K, H, W] for several; padded with zeros to the largest number of
            raters, and 0 at ignored pixels
    valid   0 at ignored pixels, else 1; None: no case has ignored pixels
    """

    ids: list[str]
    image: Float[Tensor, "B C H W"]
    raters: Float[Tensor, "B R *K H W"]
    num_raters: Int[Tensor, " B"]
    valid: Float[Tensor, "B 1 H W"] | None = None


def collate(cases: Sequence[CaseLike]) -> Batch:
    """Collate cases of the same size, with any numbers of raters, into a Batch. DataError: their sizes differ."""
    _check_shapes(cases)
    counts = torch.tensor([len(case.raters) for case in cases])
    raters = torch.zeros(len(cases), int(counts.max()), *cases[0].raters.shape[1:-2], *cases[0].image.shape[1:])
    for row, case in zip(raters, cases, strict=True):
        row[: len(case.raters)] = case.raters
    channels = len(cases[0].image)
    repeated = all(case.image.stride(0) == 0 for case in cases)  # one expanded plane: copy it once
    image = torch.stack([case.image[:1] if repeated else case.image for case in cases]).expand(-1, channels, -1, -1)
    valid = _valid_pixels(cases)
    if valid is not None:
        raters *= valid.view(len(cases), *[1] * (raters.dim() - 3), *valid.shape[2:])
    return Batch([case.id for case in cases], image, raters, counts, valid)


def _valid_pixels(cases: Sequence[CaseLike]) -> Float[Tensor, "B 1 H W"] | None:
    """1 at pixels that count, else 0; None: all pixels of all cases count."""
    maps = [case.ignored for case in cases]
    if not any(ignored is not None and ignored.any() for ignored in maps):
        return None
    none = torch.zeros(cases[0].image.shape[1:], dtype=torch.bool)
    return (~torch.stack([none if ignored is None else ignored for ignored in maps]))[:, None].float()


def _check_shapes(cases: Sequence[CaseLike]) -> None:
    """DataError: the images differ in size or in channels."""
    first = cases[0]
    other = next((case for case in cases if case.image.shape != first.image.shape), None)
    if other is None:
        return
    (channels, height, width), (others, h, w) = first.image.shape, other.image.shape
    if (height, width) != (h, w):
        raise DataError(
            f"{first.id} has {width}x{height} pixels and {other.id} {w}x{h}; to batch cases of different sizes, pass "
            "image_size to LIDCDataset, or batch_size=None to the DataLoader"
        )
    raise DataError(f"{first.id} has {channels} channels and {other.id} {others}; cases of one batch need the same")


def pick_raters(batch: Batch, u: Float[Tensor, " B"], n: int) -> Float[Tensor, "B*{n} K H W"]:
    """Pick n rater masks per case, [B n, K, H, W], with those of a case adjacent, by uniform numbers u [B] in [0, 1).

    All raters of a case are equally likely, and distinct unless the case has fewer than n.
    """
    u = (u[:, None] + torch.arange(n) / n).flatten() % 1
    rows = torch.arange(len(batch.ids)).repeat_interleave(n)
    counts = batch.num_raters[rows]
    chosen = torch.minimum((u * counts).long(), counts - 1)  # float32 may round up to the count
    masks = batch.raters[rows, chosen]
    return masks if masks.dim() == 4 else masks[:, None]


class EndlessSampler(torch.utils.data.Sampler[list[int]]):
    """Endless batches of case indices, from a stream of shuffled passes over the cases.

    The stream depends only on the seed. Each step consumes a global batch, of which each process takes its shard.
    `start` is the position in the stream at which to begin, so a run can start at any step. Each case occupies
    `repeats` positions, but appears once in the batch.
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
        self._pass, self._order = -1, np.arange(0)  # the last pass over the cases, and its order

    def __iter__(self) -> Iterator[list[int]]:
        start = self.start
        while True:
            yield [self.case_at(place) for place in self.places(start)[:: self.repeats]]
            start += self.world_size * self.batch_size

    def places(self, start: int) -> range:
        """This process's positions in the global batch that begins at `start`."""
        first = start + self.rank * self.batch_size
        return range(first, first + self.batch_size)

    def case_at(self, place: int) -> int:
        """The index of the case at a position in the stream."""
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
    """Yield the sampler's batches endlessly, starting at place(). Loading processes that die are replaced.

    num_workers  number of processes that prefetch batches; 0: load each batch in this process, on demand
    place        () -> position in the stream at which the next batch begins
    on_death     called with a message each time that loading processes died

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
                    f"a data loading process died twice before the same batch ({death}), possibly for lack of memory; "
                    "use --num_workers 0 to load cases in the training process"
                ) from death
            died_at = place()
            on_death(f"a data loading process died ({death}); restarting all of them")


def _read_ahead(dataset: Cases, sampler: Iterable[list[int]], processes: int) -> Iterator[Batch]:
    """Yield the batches in order, loaded by several processes. WorkerDied: one of them was killed."""
    waiting: collections.deque[Future[Batch]] = collections.deque()
    with background_pool(processes, functools.partial(_keep, dataset)) as pool:
        for indices in sampler:
            waiting.append(pool.submit(_read, indices))
            if len(waiting) > AHEAD * processes:
                yield waiting.popleft().result()


# -- in a loading process ---------------------------------------------------------------------------------------------

_kept: list[Cases] = []  # the dataset, inherited by fork, because sending it with each batch would copy the cases


def _keep(dataset: Cases) -> None:
    torch.set_num_threads(1)  # the cores are for training, and fork does not copy the parent's threads
    _kept.append(dataset)


def _read(indices: Sequence[int]) -> Batch:
    return collate([_kept[0][index] for index in indices])
