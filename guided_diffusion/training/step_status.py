"""What the processes of a run agree on at every step, reported without waiting for a GPU."""

import collections
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class StepReport:
    """One step, the same on every process but for its batch."""

    step: int  # steps done with it
    ids: list[str]  # this process's cases
    terms: dict[str, torch.Tensor]  # this process's loss terms, each [B]
    bad: bool  # a loss or a gradient was not finite, on some process: the step was skipped
    stop: bool  # some process was asked to end
    save: bool  # some process was asked for a checkpoint

    def bad_terms(self) -> list[str]:
        """Names of this process's loss terms that are not finite; of the loss itself where none of its parts is."""
        bad = [name for name, values in self.terms.items() if not torch.isfinite(values).all()]
        return [name for name in bad if name != "loss"] or bad


class _Posted(NamedTuple):
    """A report on its way."""

    step: int
    ids: list[str]
    terms: dict[str, torch.Tensor]
    flags: torch.Tensor
    arrived: torch.cuda.Event | None  # None: at once


class StepReports:
    """The queue of reports on their way from the device.

    A report is read LAG steps after its own: on a GPU by then it has arrived, and the steps between keep the GPU busy.
    Every process reads the same report at the same step, so that all act alike. `stop` and `save` say what the reports
    read so far have asked for.
    """

    LAG = {"cpu": 0, "cuda": 2}

    def __init__(self, device: torch.device) -> None:
        self.device, self.lag = device, self.LAG[device.type]
        self.waiting: collections.deque[_Posted] = collections.deque()
        self.stop = self.save = False

    def post(self, step: int, ids: list[str], terms: dict[str, torch.Tensor], flags: torch.Tensor) -> None:
        """Send a report on its way; flags [3] on the device: bad, stop, save, true where above 0."""
        if self.device.type == "cuda":
            flags = torch.empty(3, pin_memory=True).copy_(flags, non_blocking=True)
        arrived = torch.cuda.Event() if self.device.type == "cuda" else None
        if arrived:
            arrived.record()
        self.waiting.append(_Posted(step, ids, terms, flags, arrived))

    def read(self, all_of_them: bool = False) -> list[StepReport]:
        """The StepReports that are due, in order of their steps."""
        due = []
        while len(self.waiting) > (0 if all_of_them else self.lag):
            step, ids, terms, flags, arrived = self.waiting.popleft()
            if arrived:
                arrived.synchronize()
            bad, stop, save = (flag > 0 for flag in flags.tolist())
            self.stop, self.save = self.stop or stop, self.save or save
            due.append(StepReport(step, ids, terms, bad, stop, save))
        return due
