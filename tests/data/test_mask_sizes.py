"""Resizing of masks: outlines stay nested, every lesion keeps a pixel, areas stay about the same."""

import numpy as np
import pytest
from drawings import assert_says, disc, masks_in, opened, put
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

CONNECTED = np.ones((3, 3))  # pixels that touch at a corner belong to one lesion


def resized(folder, masks, size, **flags):
    """The masks [R, H, W] as the dataset of a new folder has them at a size, and its notes."""
    put(folder / "case" / "image.png", np.arange(masks[0].size).reshape(masks[0].shape).astype(np.uint8))
    for k, mask in enumerate(masks):
        put(folder / "case" / f"label{k}_.npy", mask)
    dataset = opened(folder, size=size, **flags)
    return masks_in(dataset), dataset.notes


def shares(length, size):
    """[size, length]: the share of each of `length` pixels in each of `size` that cover the same line."""
    edges = np.arange(size + 1) * length / size
    upper, lower = (
        np.minimum(edges[1:, None], np.arange(1, length + 1)),
        np.maximum(edges[:-1, None], np.arange(length)),
    )
    return np.clip(upper - lower, 0, None)


def coverage(mask, size):
    """The share [size, size] of each pixel that the mask covers."""
    rows, columns = (shares(length, size) for length in mask.shape)
    return rows @ mask @ columns.T * size * size / mask.size


SMALLER = ((256, 256, 32), (150, 200, 32), (100, 100, 64), (64, 64, 32))  # height, width, side to resize to
LARGER = ((40, 40, 64), (30, 50, 64))


@st.composite
def nested(draw, sizes):
    """Three masks [3, H, W], each within the next, of blobs and specks; and the side to resize them to."""
    height, width, size = draw(st.sampled_from(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    smooth = draw(st.sampled_from([0.7, 1.5, 4.0]))
    values = ndimage.gaussian_filter(rng.normal(size=(height, width)), smooth)
    low, gap = draw(st.sampled_from([0.5, 0.9, 0.995])), draw(st.sampled_from([0.0005, 0.02]))
    cuts = [np.quantile(values, min(low + k * gap, 0.9999)) for k in (2, 1, 0)]
    return np.stack([values > cut for cut in cuts]), size


@settings(max_examples=40, deadline=None, derandomize=True)
@given(nested(SMALLER + LARGER), st.permutations(range(3)), st.booleans())
def test_nested_outlines_stay_nested_and_every_lesion_keeps_a_pixel(tmp_path_factory, drawn, order, pad):
    masks, size = drawn
    got, _ = resized(tmp_path_factory.mktemp("nested"), masks[list(order)], size, pad=pad)
    got = got[np.argsort(order)]
    assert not (got[0] & ~got[1]).any() and not (got[1] & ~got[2]).any()
    if pad:
        square = max(*masks.shape[1:], size)
        around = [((square - length) // 2, (square - length + 1) // 2) for length in masks.shape[1:]]
        masks = np.pad(masks, [(0, 0), *around])
    for mask, small in zip(masks, got, strict=True):
        lesions, count = ndimage.label(mask, CONNECTED)
        for number in range(1, count + 1):
            assert small[coverage(lesions == number, size) > 0].any()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(nested(SMALLER))
def test_pixels_are_foreground_where_half_of_them_is(tmp_path_factory, drawn):
    """Up to the pixels that keep a lesion, each of which the lesion at least touches."""
    masks, size = drawn
    got, _ = resized(tmp_path_factory.mktemp("half"), masks, size)
    lesions = sum(ndimage.label(mask)[1] for mask in masks)
    for mask, small in zip(masks, got, strict=True):
        share = coverage(mask, size)
        assert small[share > 0.5 + 1e-6].all() and not small[share <= 1e-6].any()
        assert (small & (share < 0.5 - 1e-6)).sum() <= lesions


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("radius", [1, 2, 3, 4, 5])
def test_small_discs_keep_a_pixel_and_are_counted(tmp_path, radius, size):
    rng = np.random.default_rng(radius)
    masks = [disc(radius, *rng.uniform(20, 236, 2), 256) for _ in range(12)]
    got, notes = resized(tmp_path, masks, size)
    most = np.array([coverage(mask, size) for mask in masks])
    for share, small in zip(most, got, strict=True):
        assert small[share > share.max() - 1e-9].any() and not small[share == 0].any()
    greatest = most.max((1, 2))
    lost, half = (greatest < 0.5 - 1e-9).sum(), (abs(greatest - 0.5) < 1e-9).sum()
    notes = [note for note in notes if "lesion" in note or "vanish" in note]
    if not half:
        assert len(notes) == bool(lost)
        assert_says(" ".join(notes), *[lost] * len(notes))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_thin_lines_do_not_vanish(tmp_path, width):
    lines = np.zeros((3, 256, 256), bool)
    lines[0, 100 : 100 + width, 30:220] = True
    lines[1, 30:220, 77 : 77 + width] = True
    lines[2] = np.abs(np.subtract.outer(np.arange(256), np.arange(256))) < width
    got, _ = resized(tmp_path, lines, 32)
    for line, small in zip(lines, got, strict=True):
        assert small.any() and not small[coverage(line, 32) == 0].any()


def test_a_kept_pixel_is_set_in_every_mask_around_it_and_in_no_other(tmp_path):
    lesion, beside, wide = (np.zeros((256, 256), bool) for _ in range(3))
    lesion[17:19, 33:35] = True
    wide[16:20, 32:36] = True  # a quarter of a pixel of 32x32
    beside[22:24, 38:40] = True  # in the same pixel of 32x32, but apart from the lesion
    far = np.roll(wide, 100, 0)
    got, notes = resized(tmp_path, [far, wide, lesion, 0 * lesion], 32)
    assert got[:, 2, 4].tolist() == [False, True, True, False] and got.sum((1, 2)).tolist() == [1, 1, 1, 0]
    for mask in (beside, beside | lesion):
        got, _ = resized(tmp_path / "beside", [mask], 32)
        assert got.sum() == 1 and got[0, 2, 4]


def test_empty_and_full_masks_stay_so_and_equal_masks_equal(tmp_path):
    blob = disc(13, 31.3, 30.7)
    got, notes = resized(tmp_path, [0 * blob, blob | True, blob, blob], 24)
    assert not got[0].any() and got[1].all() and (got[2] == got[3]).all()
    assert not [note for note in notes if "lesion" in note or "vanish" in note]


def test_masks_of_the_right_size_are_as_stored(tmp_path):
    mask = np.random.default_rng(0).random((32, 32)) < 0.1
    got, _ = resized(tmp_path, [mask], 32)
    assert (got[0] == mask).all()
