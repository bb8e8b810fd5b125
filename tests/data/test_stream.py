"""Batches: raters picked evenly, and readers that may die."""

import contextlib
import multiprocessing
import os
import signal
import threading

import pytest
import torch

from guided_diffusion.data.stream import Batch, EndlessSampler, collate, endless_batches, pick_raters
from guided_diffusion.errors import DataError, TrainingError
from guided_diffusion.lidcloader import Case, LIDCDataset
from guided_diffusion.nn import to_device


@pytest.mark.parametrize("K", [1, 2, 4, 6])
def test_raters_of_an_image_are_unlike_and_each_equally_often(K):
    """Four raters, one pixel each; of an image with two, both come, and never a third."""
    raters = torch.eye(4).reshape(1, 4, 2, 2).expand(400, 4, 2, 2)
    counts = torch.tensor([4, 2]).repeat(200)
    u = (torch.arange(400) + 0.5) / 400
    masks = pick_raters(Batch([str(k) for k in range(400)], torch.zeros(400, 1, 2, 2), raters, counts), u, K)
    chosen = masks.flatten(1).argmax(1).reshape(400, K)
    assert masks.shape == (400 * K, 1, 2, 2) and (masks.sum((1, 2, 3)) == 1).all()
    for rows, count in ((chosen[::2], 4), (chosen[1::2], 2)):
        assert all(len(set(row.tolist())) == min(K, count) for row in rows)
        shares = torch.bincount(rows.flatten(), minlength=4) / rows.numel()
        assert torch.allclose(shares[:count], torch.tensor(1 / count), atol=0.01) and not shares[count:].any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_raters_of_several_classes_are_picked_as_those_of_one(n):
    """The same raters for the same numbers, all channels together."""
    marks = torch.arange(1.0, 5).reshape(1, 4, 1, 1).expand(50, 4, 2, 2)
    counts, ids = torch.tensor([4, 2]).repeat(25), [str(k) for k in range(50)]
    u, image = torch.rand(50, generator=torch.Generator().manual_seed(0)), torch.zeros(50, 1, 2, 2)
    one = pick_raters(Batch(ids, image, marks, counts), u, n)
    three = pick_raters(Batch(ids, image, torch.stack([marks, 10 * marks, -marks], dim=2), counts), u, n)
    assert one.shape == (50 * n, 1, 2, 2) and torch.equal(three, torch.cat([one, 10 * one, -one], dim=1))


@pytest.mark.parametrize("axis", [(), (3,)], ids=["one class", "three classes"])
def test_ignored_pixels_of_a_batch(axis):
    """Its map is that of each case; no rater has a mask there; None where nothing is ignored."""
    ignored = torch.zeros(4, 4, dtype=torch.bool)
    ignored[1, 2:] = True
    image, raters = torch.zeros(1, 4, 4), torch.ones(2, *axis, 4, 4)
    cases = [
        Case("all", image, raters),
        Case("some", image, torch.ones(3, *axis, 4, 4), ignored=ignored),
        Case("none", image, raters, ignored=torch.zeros(4, 4, dtype=torch.bool)),
    ]
    batch = collate(cases)
    assert torch.equal(batch.valid, torch.stack([torch.ones(4, 4), (~ignored).float(), torch.ones(4, 4)])[:, None])
    assert batch.raters.shape == (3, 3, *axis, 4, 4) and batch.num_raters.tolist() == [2, 3, 2]
    assert (batch.raters[1] == (~ignored).float()).all() and (batch.raters[[0, 2], :2] == 1).all()
    assert collate(cases[::2]).valid is None and (cases[1].raters == 1).all()


def test_repeated_channels_are_laid_out_before_they_are_pinned(monkeypatch):
    """Memory that overlaps itself cannot be written, pinned memory neither."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    grey = torch.rand(2, 1, 3, 3).expand(-1, 4, -1, -1)
    assert to_device(grey, "meta").device.type == "meta" and to_device(grey, "cpu") is grey
    assert len(pinned) == 1 and pinned[0].is_contiguous() and torch.equal(pinned[0], grey)


def test_the_stream_of_cases_is_the_same_for_any_number_of_raters():
    one, four = iter(EndlessSampler(5, 3, 7)), iter(EndlessSampler(5, 12, 7, repeats=4))
    assert [next(one) for _ in range(6)] == [next(four) for _ in range(6)]
    second = EndlessSampler(5, 8, 7, rank=1, world_size=2, repeats=4)
    assert next(iter(second)) == [second.case_at(place) for place in (8, 12)]


HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class Killer(torch.utils.data.Dataset):
    """Twenty cases; reading number `fatal` kills the reader, `times` times."""

    def __init__(self, folder, fatal, times):
        self.folder, self.fatal, self.times = folder, fatal, times

    def __len__(self):
        return 20

    def __getitem__(self, index):
        marks = [mark for mark in range(self.times) if not (self.folder / str(mark)).exists()]
        if index == self.fatal and marks:
            (self.folder / str(marks[0])).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Case(f"case{index}", torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))


def take(count, dataset, num_workers):
    """The ids of the first batches of two, as a run would take them, and the reported lines."""
    taken, lines = [], []
    sampler = EndlessSampler(20, batch_size=2, seed=1)
    handlers = [signal.getsignal(number) for number in HANDLED]
    with contextlib.closing(
        endless_batches(dataset, sampler, num_workers, lambda: 2 * len(taken), lines.append)
    ) as batches:
        while len(taken) < count:
            taken.append(next(batches).ids)
            assert [signal.getsignal(number) for number in HANDLED] == handlers
    assert not multiprocessing.active_children()
    return taken, lines


def test_readers_that_die_are_replaced_and_the_stream_stays_the_same(tmp_path):
    undisturbed, lines = take(12, Killer(tmp_path, fatal=-1, times=0), num_workers=0)
    assert lines == []
    fatal = int(undisturbed[6][0].removeprefix("case"))
    taken, lines = take(12, Killer(tmp_path, fatal, times=1), num_workers=2)
    assert taken == undisturbed
    assert len(lines) == 1 and "loading process died (process" in lines[0] and "Killed); restarting" in lines[0]


def test_readers_that_die_over_and_over_end_the_run(tmp_path):
    first = int(take(1, Killer(tmp_path, -1, 0), 0)[0][0][0].removeprefix("case"))
    with pytest.raises(TrainingError, match="died twice before the same batch .*Killed.*--num_workers 0"):
        take(1, Killer(tmp_path, first, times=99), num_workers=1)
    assert len(list(tmp_path.iterdir())) == 2


class Stuck(Killer):
    """Every case but the fatal one waits for ever: only the end of a reader can end the wait."""

    def __getitem__(self, index):
        case = super().__getitem__(index)
        if (self.folder / str(self.times - 1)).exists():
            return case
        return threading.Event().wait()


def test_the_end_of_a_reader_is_noticed_while_the_others_read_on(tmp_path):
    undisturbed, _ = take(2, Killer(tmp_path, -1, 0), 0)
    fatal = int(undisturbed[1][0].removeprefix("case"))  # the second reader's; the first one waits for ever
    taken, lines = take(2, Stuck(tmp_path, fatal, times=1), num_workers=2)
    assert taken == undisturbed and len(lines) == 1


class Broken(Killer):
    def __getitem__(self, index):
        raise DataError(f"case{index}: damaged")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_wrong_with_a_case_is_raised_as_it_is(tmp_path, num_workers):
    with pytest.raises(DataError, match=r"^case\d+: damaged$"):
        take(1, Broken(tmp_path, -1, 0), num_workers)
    assert not multiprocessing.active_children()


def test_cached_cases_come_through_reading_processes(cases, tmp_path):
    dataset = LIDCDataset(cases, 16, 2, cache_dir=tmp_path)
    sampler = EndlessSampler(len(dataset), 3, seed=0)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, num_workers=1, collate_fn=list, multiprocessing_context="spawn"
    )
    batch = next(iter(loader))
    assert [case.id for case in batch] == [dataset[index].id for index in next(iter(sampler))]
    assert all(torch.equal(case.image, dataset[int(case.id[-1])].image) for case in batch)
