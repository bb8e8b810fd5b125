"""LIDCDataset in PyTorch's own DataLoader."""

import numpy as np
import pytest
import torch
from drawings import put
from torch.utils.data import ConcatDataset, DataLoader, Subset

from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import Batch, Case, LIDCDataset, collate

RATERS = (2, 1, 3, 2, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cases of 16x16 pixels and different numbers of raters."""
    folder, rng = tmp_path_factory.mktemp("cases"), np.random.default_rng(0)
    for k, count in enumerate(RATERS):
        put(folder / f"c{k}" / "image.png", rng.integers(0, 256, (16, 16), dtype=np.uint8))
        for rater in range(count):
            put(folder / f"c{k}" / f"label{rater}_.png", rng.integers(0, 2, (16, 16), dtype=np.uint8) * 255)
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return LIDCDataset(folder, 16, 1)


def check(batch, dataset):
    """Each row of a batch is its case, whose raters are padded with zeros."""
    assert type(batch) is Batch and batch.raters.shape[1] == batch.num_raters.max()
    by_name = {dataset[k].id: dataset[k] for k in range(len(dataset))}
    for name, image, raters, count in zip(batch.ids, batch.image, batch.raters, batch.num_raters, strict=True):
        case = by_name[name]
        assert torch.equal(image, case.image) and count == len(case.raters)
        assert torch.equal(raters[:count], case.raters) and not raters[count:].any()


@pytest.mark.parametrize(
    "how",
    [
        {"batch_size": 2},
        {"num_workers": 2, "batch_size": 2},
        {"batch_size": 3, "shuffle": True, "num_workers": 2},
        {"batch_size": 5, "drop_last": True},
        {},
        {"batch_size": 4, "collate_fn": collate},
        {"batch_size": 2, "num_workers": 1, "multiprocessing_context": "spawn"},
        {"batch_size": 2, "num_workers": 2, "persistent_workers": True, "prefetch_factor": 1},
    ],
    ids=lambda how: " ".join(how) or "plain",
)
def test_every_case_comes_once(dataset, how):
    loader = DataLoader(dataset, **how)
    for _ in range(2 if how.get("persistent_workers") else 1):
        names = []
        for batch in loader:
            check(batch, dataset)
            names += batch.ids
        assert sorted(names) == dataset.ids
        assert how.get("shuffle") or names == dataset.ids


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_batches_the_cases_come_as_they_are(dataset, num_workers):
    loaded = list(DataLoader(dataset, batch_size=None, num_workers=num_workers))
    assert [type(case) for case in loaded] == [Case] * len(RATERS) and [case.id for case in loaded] == dataset.ids
    assert all(torch.equal(case.raters, dataset[k].raters) for k, case in enumerate(loaded))


def test_parts_of_datasets_and_several_of_them(dataset):
    check(next(iter(DataLoader(Subset(dataset, [3, 1]), 2))), dataset)
    check(next(iter(DataLoader(ConcatDataset([dataset, dataset]), 10))), dataset)


@pytest.fixture(scope="module")
def uneven(folder, tmp_path_factory):
    """Cases of different sizes."""
    uneven = tmp_path_factory.mktemp("uneven")
    for k, side in enumerate((8, 12)):
        put(uneven / f"c{k}" / "image.png", np.zeros((8, side), np.uint8))
        put(uneven / f"c{k}" / "label0_.png", np.eye(8, side, dtype=np.uint8) * 255)
    return uneven


def test_cases_of_different_sizes_are_refused_in_one_line(uneven):
    dataset = LIDCDataset(uneven, None, 1)
    text = "c0 has 8x8 pixels and c1 12x8; to batch cases of different sizes, pass image_size to LIDCDataset"
    with pytest.raises(DataError, match=f"^{text}") as error:
        next(iter(DataLoader(dataset, 2)))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=text):
        next(iter(DataLoader(dataset, 2, num_workers=1)))
    assert [case.image.shape[2] for case in DataLoader(dataset, None)] == [8, 12]
    assert next(iter(DataLoader(LIDCDataset(uneven, 8, 1), 2))).image.shape == (2, 1, 8, 8)


def test_cases_of_different_channels_are_refused_in_one_line(folder):
    both = ConcatDataset([LIDCDataset(folder, 16, 1), LIDCDataset(folder, 16, 3)])
    with pytest.raises(DataError, match="^c0 has 1 channels and c0 3;"):
        next(iter(DataLoader(both, 6)))


def test_cases_without_raters(folder):
    unlabelled = LIDCDataset(folder / "c0" / "image.png", 16, 1, require_raters=False)
    (batch,) = DataLoader(unlabelled)
    assert batch.raters.shape == (1, 0, 16, 16) and batch.num_raters.tolist() == [0]
