"""The loader: every format, every rule of the data, every fault by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.stream import Batch, EndlessSampler, collate, pick_raters
from guided_diffusion.errors import FAULTS_SHOWN, DataError
from guided_diffusion.lidcloader import LIDCDataset


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def square(size=8, value=255, dtype=np.uint8):
    mask = np.zeros((size, size), dtype)
    mask[2:5, 2:6] = value
    return mask


def case(folder, name="a", image=None, labels=(None,)):
    picture(folder / name / f"image_{name}.png", np.full((8, 8), 51, np.uint8) if image is None else image)
    for rater, label in enumerate(labels):
        picture(folder / name / f"label{rater}_.png", square() if label is None else label)
    return folder


def test_published_layout(tmp_path):
    case(tmp_path, "12", labels=(None, np.zeros((8, 8), np.uint8)))
    case(tmp_path, "3")
    data = LIDCDataset(tmp_path)
    assert [data[i].id for i in range(len(data))] == ["12", "3"]
    image, raters = data[0].image, data[0].raters
    assert image.shape == (4, 8, 8) and image.dtype == torch.float32
    torch.testing.assert_close(image, torch.full((4, 8, 8), 0.2))
    assert raters.shape == (2, 8, 8)
    assert torch.equal(raters[0], torch.from_numpy(square() > 0).float()) and raters[1].sum() == 0
    assert data.notes == []


def test_16_bit_npy_and_nifti_images(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    picture(tmp_path / "a" / "image.png", np.full((8, 8), 13107, np.uint16))
    ramp = np.linspace(-1000, 1000, 64).reshape(8, 8)
    for name in "bc":
        (tmp_path / name).mkdir()
    np.save(tmp_path / "b" / "image.npy", ramp)
    nibabel.save(nibabel.Nifti1Image(ramp.T[..., None], np.eye(4)), tmp_path / "c" / "image.nii.gz")
    for name in "abc":
        np.save(tmp_path / name / "label0_.npy", square(value=1))

    data = LIDCDataset(tmp_path, image_channels=1)
    torch.testing.assert_close(data[0].image, torch.full((1, 8, 8), 0.2))
    own_range = torch.linspace(0, 1, 64).reshape(1, 8, 8)
    torch.testing.assert_close(data[1].image, own_range)
    torch.testing.assert_close(data[2].image, own_range)
    assert data[2].raters.sum() == 12

    windowed = LIDCDataset(tmp_path, image_channels=1, config=DataConfig(intensity_range=(-1000.0, 0.0)))
    torch.testing.assert_close(windowed[1].image, (own_range * 2).clamp(max=1))


@pytest.mark.parametrize("dtype", [np.int16, np.int8, np.uint8])
def test_integer_images_do_not_overflow(tmp_path, dtype):
    info = np.iinfo(dtype)
    case(tmp_path)
    (tmp_path / "a" / "image_a.png").unlink()
    np.save(tmp_path / "a" / "image.npy", np.array([info.min] * 32 + [info.max] * 31 + [0], dtype).reshape(8, 8))
    image = LIDCDataset(tmp_path, image_channels=1)[0].image.flatten()
    assert image[0] == 0 and image[40] == 1
    assert image[-1].item() == pytest.approx(-info.min / (info.max - info.min), abs=1e-6)


def test_links_to_cases_are_followed_once(tmp_path):
    case(tmp_path / "store", "a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "store" / "a" / "loop").symlink_to(tmp_path / "data")
    assert LIDCDataset(tmp_path / "data").ids == ["linked"]


def test_modalities_must_fill_the_channels(tmp_path):
    case(tmp_path)
    picture(tmp_path / "a" / "image_t2.png", np.full((8, 8), 102, np.uint8))
    image = LIDCDataset(tmp_path, image_channels=2)[0].image
    assert image[:, 0, 0].tolist() == pytest.approx([0.2, 0.4])
    with pytest.raises(DataError, match="image_channels 4"):
        LIDCDataset(tmp_path)


def test_jpeg_labels_are_cut_at_half_of_full_scale_and_counted(tmp_path):
    folder = case(tmp_path, labels=())
    soft = np.kron(square().astype(np.uint8), np.ones((8, 8), np.uint8))
    soft[::8, 0] = 100  # what compression leaves
    Image.fromarray(soft).save(folder / "a" / "label0_.jpg", quality=95)
    picture(folder / "a" / "image_a.png", np.full((64, 64), 51, np.uint8))
    data = LIDCDataset(folder)
    assert data[0].raters.sum() == 12 * 64
    assert len(data.notes) == 1 and "1 label with lossy compression (JPEG)" in data.notes[0]
    assert LIDCDataset(folder, config=DataConfig(label_threshold=0.0))[0].raters.sum() > 12 * 64


@pytest.mark.parametrize("value", [1, 37, 255])
def test_lossless_labels_may_use_any_two_levels(tmp_path, value):
    assert LIDCDataset(case(tmp_path, labels=(square(value=value),)))[0].raters.sum() == 12


def test_lossless_label_of_classes(tmp_path):
    classes = square(value=2)
    classes[0, 0] = 1
    case(tmp_path, labels=(classes,))
    with pytest.raises(DataError, match=r"label0_\.png.*merge_labels"):
        LIDCDataset(tmp_path)
    assert LIDCDataset(tmp_path, config=DataConfig(merge_labels=True))[0].raters.sum() == 13


def test_the_same_fault_in_many_cases_is_one_line_with_the_flag_that_mends_it(tmp_path):
    classes = square(value=2)
    classes[0, 0] = 1
    for k in range(20):
        case(tmp_path, f"case{k:02d}", labels=(classes, classes, None))
    case(tmp_path, "damaged", labels=(square(), square()))
    for k in range(2):
        (tmp_path / "damaged" / f"label{k}_.png").write_bytes(b"no picture")
    case(tmp_path, "unlabelled", labels=())
    with pytest.raises(DataError) as error:
        LIDCDataset(tmp_path)
    assert str(error.value).splitlines() == [
        f"{tmp_path}/damaged/label0_.png, {tmp_path}/damaged/label1_.png: "
        "cannot be read (cannot identify image file); replace or remove it",
        f"{tmp_path}/unlabelled: no label; add a mask per rater, named label0_*.png, label1_*.png, ..., "
        "or skip it with --skip_unlabelled True",
        f"{tmp_path}/case00/label0_.png and 39 other labels: the labels have 4 levels: 0 (3,080 pixels), "
        "1 (40 pixels), 2 (480 pixels), 255 (240 pixels); if they are classes, name them with "
        "--classes, as in --classes disc,cup; --merge_labels True treats all but 0 as foreground, --structure LEVEL "
        "takes one",
    ]


def test_of_many_different_faults_the_first_are_shown_and_the_others_counted(tmp_path):
    for k in range(FAULTS_SHOWN + 3):
        case(tmp_path, f"case{k:02d}", labels=(None, square(9 + k)))
    with pytest.raises(DataError) as error:
        LIDCDataset(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == FAULTS_SHOWN + 1 and "case00/label1_.png: 8x8 in image_case00.png" in lines[0]
    assert lines[-1] == "... and 3 more faults"


def test_a_file_whose_name_has_a_colon_is_named_whole(tmp_path):
    case(tmp_path, "a: b")
    (tmp_path / "a: b" / "label0_.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a: b/label0_\.png: cannot be read \(cannot identify image file\); replace"):
        LIDCDataset(tmp_path)


def test_full_and_empty_masks(tmp_path):
    full = np.full((8, 8), 255, np.uint8)
    raters = LIDCDataset(case(tmp_path, labels=(full, 0 * full)))[0].raters
    assert raters.sum((1, 2)).tolist() == [64, 0]


def test_resizing_keeps_labels_binary_and_is_said(tmp_path):
    big = np.kron(square(), np.ones((4, 4), np.uint8))
    case(tmp_path, image=np.kron(square(value=255), np.ones((4, 4), np.uint8)), labels=(big,))
    data = LIDCDataset(tmp_path, image_size=8)
    assert torch.equal(data[0].raters[0], torch.from_numpy(square() > 0).float())
    assert "1 of 1 cases are resized to 8x8" in data.notes[0] and "32x32" in data.notes[0]


def test_nested_cases_have_distinct_names(tmp_path):
    case(tmp_path / "patient1", "s1")
    case(tmp_path / "patient2", "s1")
    assert LIDCDataset(tmp_path).ids == ["patient1-s1", "patient2-s1"]
    case(tmp_path, "patient1-s1")
    with pytest.raises(DataError, match="patient1-s1"):
        LIDCDataset(tmp_path)


def test_every_broken_case_is_named_at_once(tmp_path):
    case(tmp_path, "good")
    case(tmp_path, "nolabel", labels=())
    case(tmp_path, "gap", labels=(None, None))
    (tmp_path / "gap" / "label0_.png").unlink()
    case(tmp_path, "noimage")
    (tmp_path / "noimage" / "image_noimage.png").unlink()
    case(tmp_path, "small", labels=(None, square(6)))
    (case(tmp_path, "broken") / "broken" / "image_broken.png").write_bytes(b"\x89PNG nothing")
    case(tmp_path, "cut")
    whole = (tmp_path / "cut" / "label0_.png").read_bytes()
    (tmp_path / "cut" / "label0_.png").write_bytes(whole[: len(whole) // 2])
    case(tmp_path, "object")
    (tmp_path / "object" / "label0_.png").unlink()
    np.save(tmp_path / "object" / "label0_.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError) as error:
        LIDCDataset(tmp_path)
    lines = str(error.value).splitlines()
    reasons = {
        "nolabel": "no label",
        "gap": "label0_* is missing",
        "noimage": "no image",
        "small": "6x6",
        "broken": "cannot be read",
        "cut": "cannot be read",
        "object": "cannot be read",
    }
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        assert any(str(tmp_path / name) in line and reason in line for line in lines), (name, lines)
    assert "8x8" in next(line for line in lines if "small" in line)


def test_no_case_and_no_folder(tmp_path):
    with pytest.raises(DataError, match="no case"):
        LIDCDataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        LIDCDataset(tmp_path / "nowhere")


def test_labels_may_be_absent_where_they_are_not_required(tmp_path):
    assert LIDCDataset(case(tmp_path, labels=()), require_raters=False)[0].raters.shape == (0, 8, 8)


def test_picking_a_rater_is_even_and_heeds_each_cases_count(tmp_path):
    case(tmp_path, "one", labels=(square(),))
    case(tmp_path, "three", labels=(square(), 0 * square(), np.full((8, 8), 255, np.uint8)))
    data = LIDCDataset(tmp_path)
    batch = collate([data[0], data[1]])
    assert isinstance(batch, Batch) and batch.raters.shape == (2, 3, 8, 8)
    areas = []
    for u in (torch.arange(300) + 0.5) / 300:
        mask = pick_raters(batch, torch.tensor([float(u), float(u)]), 1)
        assert mask.shape == (2, 1, 8, 8) and mask[0].sum() == 12
        areas.append(int(mask[1].sum()))
    assert [areas.count(area) for area in (12, 0, 64)] == [100, 100, 100]


def test_endless_sampler_shards_one_stream():
    def take(n, **kwargs):
        sampler = iter(EndlessSampler(10, seed=3, **kwargs))
        return [next(sampler) for _ in range(n)]

    whole = take(5, batch_size=4)
    first, second = (take(5, batch_size=2, rank=rank, world_size=2) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert take(3, batch_size=4, start=8) == whole[2:]
    flat = [index for batch in whole for index in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
