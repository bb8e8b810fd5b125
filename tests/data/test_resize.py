"""Resizing of masks by area, against exact fractions pixel by pixel."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage

from guided_diffusion.data.resize import canvas, pad_to, resize, resize_and_count, resize_masks


def exact_overlaps(length, side):
    """Share of each of `length` pixels in each of `side` parts of an axis, [side][length]."""
    part = Fraction(length, side)
    return [
        [max(min((i + 1) * part, Fraction(j + 1)) - max(i * part, Fraction(j)), Fraction(0)) for j in range(length)]
        for i in range(side)
    ]


def covered(mask, size):
    """The area of a mask in each pixel of a grid of this size, as fractions."""
    rows, columns = (np.array(exact_overlaps(n, side), dtype=object) for n, side in zip(mask.shape, size, strict=True))
    return rows.dot(mask.astype(object)).dot(columns.T)


def by_hand(masks, size):
    height, width = masks.shape[1:]
    pixel = Fraction(height, size[0]) * Fraction(width, size[1])
    resized = np.array([covered(mask, size) * 2 > pixel for mask in masks]).astype(bool)
    more = []
    for k, mask in enumerate(masks):
        parts, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        for number in range(1, count + 1):
            shares = covered(parts == number, size)
            if not resized[k][shares > 0].any():
                best = max(shares.ravel())
                place = next(place for place in np.ndindex(*size) if shares[place] == best)
                more.append((place, [(other | (parts != number)).all() for other in masks]))
    for place, around in more:
        resized[np.array(around), *place] = True
    return resized, len(more)


@pytest.mark.parametrize("seed", range(24))
def test_masks_are_resized_by_exact_areas(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, 20, 2)
    side = int(rng.integers(2, min(height, width) + 1))
    size = (side, side) if seed % 2 else tuple(int(n) for n in rng.integers(2, 25, 2))  # larger in one axis too
    values = scipy.ndimage.gaussian_filter(rng.random((height, width)), seed % 3 / 2)
    masks = np.array([values > np.quantile(values, share) for share in (0.97, 0.9, 0.8, 0.4)])
    resized, kept = resize_and_count(masks, size)
    expected, count = by_hand(masks, size)
    np.testing.assert_array_equal(resized, expected)
    assert kept == count
    for inner, outer in zip(resized, resized[1:], strict=False):
        assert not (inner & ~outer).any()  # nested as before


def test_a_pixel_that_is_just_half_covered_is_background_whatever_the_factor():
    for factor in (2, 3, 6, 7, 12):
        mask = np.zeros((1, 4 * factor, 4 * factor), bool)
        mask[0, :, : 2 * factor] = True
        mask[0, :, 2 * factor : 2 * factor + factor // 2] = True
        expected = np.zeros((4, 4), bool)
        expected[:, :2] = True
        np.testing.assert_array_equal(resize_masks(mask, (4, 4))[0], expected)


def test_a_lost_lesion_keeps_one_pixel_in_every_mask_around_it():
    masks = np.zeros((4, 64, 64), bool)
    masks[0, 9:11, 9:11] = True  # a quarter of the pixel (1, 1) of 8 x 8
    masks[1, 9:12, 9:12] = masks[2, 4:20, 4:20] = True
    masks[2, 40:42, 40:42] = True  # a second lesion of a mask that keeps its first
    resized, kept = resize_and_count(masks, (8, 8))
    assert kept == 3 and resized[0].sum() == resized[1].sum() == 1 and resized[:3, 1, 1].all()
    assert resized[2, 5, 5] and not resized[3].any()
    assert resize_and_count(masks[3:], (8, 8))[1] == 0


def test_a_mask_is_enlarged_without_change_of_its_outline():
    mask = np.random.default_rng(0).random((1, 5, 5)) > 0.5
    np.testing.assert_array_equal(resize_masks(mask, (15, 15))[0], mask[0].repeat(3, 0).repeat(3, 1))
    np.testing.assert_array_equal(resize_masks(mask, (10, 20))[0], mask[0].repeat(2, 0).repeat(4, 1))
    assert resize_masks(mask[:0], (4, 9)).shape == (0, 4, 9)


def test_height_comes_first():
    plane = np.repeat(np.arange(6, dtype=np.float32)[:, None], 4, axis=1)
    assert resize(plane, (3, 8)).shape == (3, 8) and (np.ptp(resize(plane, (3, 8)), axis=1) == 0).all()
    padded = pad_to(plane[None], (6, 9))
    assert padded.shape == (1, 6, 9) and (padded[0, :, 2:6] == plane).all() and padded.sum() == plane.sum()


@pytest.mark.parametrize(
    "shape, size, expected",
    [
        ((200, 150), (32, 32), (200, 200)),
        ((10, 20), (32, 32), (32, 32)),
        ((200, 150), (64, 96), (200, 300)),
        ((100, 300), (64, 96), (200, 300)),
        ((60, 100), (64, 96), (67, 100)),  # 66.7, rounded
        ((64, 96), (64, 96), (64, 96)),
        ((7, 1), (3, 5), (7, 12)),
    ],
)
def test_the_canvas_holds_the_case_and_has_the_aspect_of_the_size(shape, size, expected):
    assert canvas(shape, size) == expected
