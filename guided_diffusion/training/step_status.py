"""Step status shared by all processes of a run, reported without waiting for the GPU."""

import collections
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class StepReport:
    """The report of one step; equal on all processes except for `ids` and `terms`."""

    step: int  # completed steps, including this one
    ids: list[str]  # this process's cases
    terms: dict[str, torch.Tensor]  # this process's loss terms, each [B]
    bad: bool  # a loss or gradient on any process was not finite: the step was skipped
    stop: bool  # any process received a signal to stop
    save: bool  # any process received a signal to save a checkpoint

    def bad_terms(self) -> list[str]:
        """Names of this process's non-finite loss terms; "loss" only if all of its parts are finite."""
        bad = [name for name, values in self.terms.items() if not torch.isfinite(values).all()]
        return [name for name in bad if name != "loss"] or bad


class _Posted(NamedTuple):
    """A pending report."""

    step: int
    ids: list[str]
    terms: dict[str, torch.Tensor]
    flags: torch.Tensor
    arrived: torch.cuda.Event | None  # None: already on the CPU


class StepReports:
    """A queue of reports that are copied from the device.

    A report is read LAG steps after its step. On a GPU it has arrived by then, and the steps in between keep the GPU
    busy. All processes read the same report at the same step and thus take the same decisions. `stop` and `save` are
    the requests in the reports read so far.
    """

    LAG = {"cpu": 0, "cuda": 2}

    def __init__(self, device: torch.device) -> None:
        self.device, self.lag = device, self.LAG[device.type]
        self.waiting: collections.deque[_Posted] = collections.deque()
        self.stop = self.save = False

    def post(self, step: int, ids: list[str], terms: dict[str, torch.Tensor], flags: torch.Tensor) -> None:
        """Queue a report; flags [3] on the device: bad, stop, save, true if above 0."""
        if self.device.type == "cuda":
            flags = torch.empty(3, pin_memory=True).copy_(flags, non_blocking=True)
        arrived = torch.cuda.Event() if self.device.type == "cuda" else None
        if arrived:
            arrived.record()
        self.waiting.append(_Posted(step, ids, terms, flags, arrived))

    def read(self, all_of_them: bool = False) -> list[StepReport]:
        """The StepReports that are due, in order of steps."""
        due = []
        while len(self.waiting) > (0 if all_of_them else self.lag):
            step, ids, terms, flags, arrived = self.waiting.popleft()
            if arrived:
                arrived.synchronize()
            bad, stop, save = (flag > 0 for flag in flags.tolist())
            self.stop, self.save = self.stop or stop, self.save or save
            due.append(StepReport(step, ids, terms, bad, stop, save))
        return due
