"""Resizing of masks by area, against exact fractions pixel by pixel."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage

from guided_diffusion.data.resize import resize_and_count, resize_masks


def exact_overlaps(length, side):
    """Share of each of `length` pixels in each of `side` parts of an axis, [side][length]."""
    part = Fraction(length, side)
    return [
        [max(min((i + 1) * part, Fraction(j + 1)) - max(i * part, Fraction(j)), Fraction(0)) for j in range(length)]
        for i in range(side)
    ]


def covered(mask, side):
    """The area of a mask in each pixel of a side x side grid, as fractions."""
    rows, columns = (np.array(exact_overlaps(n, side), dtype=object) for n in mask.shape)
    return rows.dot(mask.astype(object)).dot(columns.T)


def by_hand(masks, side):
    height, width = masks.shape[1:]
    pixel = Fraction(height, side) * Fraction(width, side)
    resized = np.array([covered(mask, side) * 2 > pixel for mask in masks]).astype(bool)
    more = []
    for k, mask in enumerate(masks):
        parts, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        for number in range(1, count + 1):
            shares = covered(parts == number, side)
            if not resized[k][shares > 0].any():
                best = max(shares.ravel())
                place = next(place for place in np.ndindex(side, side) if shares[place] == best)
                more.append((place, [(other | (parts != number)).all() for other in masks]))
    for place, around in more:
        resized[np.array(around), *place] = True
    return resized, len(more)


@pytest.mark.parametrize("seed", range(12))
def test_masks_are_resized_by_exact_areas(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, 20, 2)
    side = int(rng.integers(2, min(height, width) + 1))
    values = scipy.ndimage.gaussian_filter(rng.random((height, width)), seed % 2)
    masks = np.array([values > np.quantile(values, share) for share in (0.97, 0.9, 0.8, 0.4)])
    resized, kept = resize_and_count(masks, side)
    expected, count = by_hand(masks, side)
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
        np.testing.assert_array_equal(resize_masks(mask, 4)[0], expected)


def test_a_lost_lesion_keeps_one_pixel_in_every_mask_around_it():
    masks = np.zeros((4, 64, 64), bool)
    masks[0, 9:11, 9:11] = True  # a quarter of the pixel (1, 1) of 8 x 8
    masks[1, 9:12, 9:12] = masks[2, 4:20, 4:20] = True
    masks[2, 40:42, 40:42] = True  # a second lesion of a mask that keeps its first
    resized, kept = resize_and_count(masks, 8)
    assert kept == 3 and resized[0].sum() == resized[1].sum() == 1 and resized[:3, 1, 1].all()
    assert resized[2, 5, 5] and not resized[3].any()
    assert resize_and_count(masks[3:], 8)[1] == 0


def test_a_mask_is_enlarged_without_change_of_its_outline():
    mask = np.random.default_rng(0).random((1, 5, 5)) > 0.5
    np.testing.assert_array_equal(resize_masks(mask, 15)[0], mask[0].repeat(3, 0).repeat(3, 1))
    assert resize_masks(mask[:0], 4).shape == (0, 4, 4)
