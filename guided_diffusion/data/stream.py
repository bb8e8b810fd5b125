"""Batches for training: cases from an endless seeded stream, one rater's mask of each."""

import signal
import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Batch:
    ids: list[str]
    image: torch.Tensor  # [B, C, H, W]
    raters: torch.Tensor  # [B, R, H, W]; a case with fewer raters than the largest is filled up with zeros
    num_raters: torch.Tensor  # [B]


def collate(cases):
    """Cases of one size -> Batch, whatever their numbers of raters."""
    counts = torch.tensor([len(case.raters) for case in cases])
    raters = torch.zeros(len(cases), int(counts.max()), *cases[0].image.shape[1:])
    for row, case in zip(raters, cases, strict=True):
        row[: len(case.raters)] = case.raters
    channels = len(cases[0].image)
    repeated = all(case.image.stride(0) == 0 for case in cases)  # one plane, expanded: it is enough to copy that
    image = torch.stack([case.image[:1] if repeated else case.image for case in cases]).expand(-1, channels, -1, -1)
    return Batch([case.id for case in cases], image, raters, counts)


def pick_raters(batch, u, K):
    """K raters' masks of each case, [B K, 1, H, W], a case's in a row: each of its raters equally likely, and none twice unless
    it has fewer than K; by uniform numbers u [B] in [0, 1).
    """
    u = (u[:, None] + torch.arange(K) / K).flatten() % 1
    rows = torch.arange(len(batch.ids)).repeat_interleave(K)
    counts = batch.num_raters[rows]
    chosen = torch.minimum((u * counts).long(), counts - 1)  # float32 may round up to the count
    return batch.raters[rows, chosen][:, None]


class EndlessSampler(torch.utils.data.Sampler):
    """Batches of case numbers without end, cut from one endless stream of shuffled passes over the cases.

    The stream is a function of the seed alone. At each step the processes take a global batch of it, each its shard;
    `start` is the place of the stream at which to begin, so that a run can start at any step. Each case takes `repeats`
    places, and is in a batch once for them.
    """

    def __init__(self, num_cases, batch_size, seed, rank=0, world_size=1, start=0, repeats=1):
        self.num_cases, self.batch_size, self.seed, self.repeats = num_cases, batch_size, seed, repeats
        self.rank, self.world_size, self.start = rank, world_size, start
        self._epoch, self._order = None, None

    def __iter__(self):
        start = self.start
        while True:
            yield [self.case_at(place) for place in self.places(start)[:: self.repeats]]
            start += self.world_size * self.batch_size

    def places(self, start):
        """This process's places of the global batch that begins at `start`."""
        first = start + self.rank * self.batch_size
        return range(first, first + self.batch_size)

    def case_at(self, place):
        """The number of the case at a place of the stream."""
        epoch, offset = divmod(place // self.repeats, self.num_cases)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.num_cases)
        return int(self._order[offset])


def endless_batches(dataset, sampler, num_workers, place, on_death):
    """Yield the sampler's batches from place() on, without end. Reading processes that die are replaced.

    place     () -> the place of the stream at which the next batch begins
    on_death  called with a line for each time that readers died; the error goes on when they die before a batch came
    """
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_leave_interrupts_to_the_trainer if num_workers else None,
        multiprocessing_context="fork" if num_workers else None,  # with the cases as they are open; they touch no GPU
    )
    while True:
        sampler.start = first = place()
        try:
            batches = iter(loader)
            if num_workers and threading.current_thread() is threading.main_thread():
                # The loader's own handler would raise in the middle of a step; so, the dead are missed at the next batch.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            yield from batches
        except (RuntimeError, OSError, EOFError) as error:  # of its absence, or of a batch that it was handing over
            if (
                not num_workers
                or place() == first
                or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error))
            ):
                raise
            on_death(f"a process that reads cases died ({error}); new ones are started")


def _leave_interrupts_to_the_trainer(worker):
    """Ctrl-C reaches every process of the terminal; the trainer ends the readers when its step is done. A signal to a forked
    reader must not be counted as one to the trainer either.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
