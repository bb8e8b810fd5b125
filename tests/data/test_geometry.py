"""The way from a case's own pixels to those of the network and back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_size import assert_within_a_pixel, blobs

from guided_diffusion.data.case_reader import CaseReader
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.files.nifti import PLACING, NiftiFrame
from guided_diffusion.data.geometry import CaseArrays, Geometry, bring_back, fit
from guided_diffusion.data.resize import canvas
from guided_diffusion.errors import DataError


def case_of(masks):
    """A case whose image is its first mask."""
    size = masks.shape[1:]
    return CaseArrays(masks[:1].astype(np.float32), masks, Geometry("image.png", size, size, size))


def there_and_back(masks, network, pad):
    """(the masks at their own size again, the geometry)."""
    seen, _ = fit(case_of(masks), network, pad)
    assert seen.size == network and seen.geometry.network == network and seen.geometry.size == masks.shape[1:]
    soft = seen.raters.astype(np.float32)
    return np.stack([seen.geometry.bring_back(plane) for plane in soft]) > 0.5, seen.geometry


SIDES = st.integers(6, 90)
HALVED = st.sampled_from([8, 16, 24, 32, 64, 96])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.tuples(SIDES, SIDES), st.tuples(HALVED, HALVED), st.booleans(), st.integers(0, 2**32 - 1))
def test_an_outline_moves_by_a_pixel_of_the_network_at_most(size, network, pad, seed):
    """Smaller and larger than the network, square or not, padded or stretched."""
    masks = np.stack([blobs(*size, seed + k) for k in range(2)])
    back, geometry = there_and_back(masks, network, pad)
    assert geometry.canvas == (canvas(size, network) if pad else size)
    for written, mask in zip(back, masks, strict=True):
        assert_within_a_pixel(written, mask, network, geometry.canvas)


@given(st.tuples(SIDES, SIDES), st.booleans(), st.integers(0, 2**32 - 1))
def test_nothing_changes_where_the_sizes_agree(size, pad, seed):
    masks = np.random.default_rng(seed).random((2, *size)) > 0.5
    back, geometry = there_and_back(masks, size, pad)
    assert (back == masks).all() and not geometry.changes_pixels
    soft = np.random.default_rng(seed).random(size, dtype=np.float32)
    np.testing.assert_array_equal(geometry.bring_back(soft), soft)


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (7, 30), (30, 7), (5, 5), (29, 31)])
def test_padding_alone_changes_nothing_within_the_image(size):
    """An image that is not larger than the network is padded to it."""
    masks = np.random.default_rng(0).random((2, *size)) > 0.5
    back, geometry = there_and_back(masks, (32, 32), pad=True)
    assert (back == masks).all() and geometry.canvas == (32, 32)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_factors_of_enlargement_lose_nothing(factor):
    masks = np.random.default_rng(0).random((2, 12, 9)) > 0.5
    back, _ = there_and_back(masks, (12 * factor, 9 * factor), pad=False)
    assert (back == masks).all()


def test_a_soft_sample_is_brought_back_as_a_plane_of_pixel_areas():
    """A ramp stays a ramp: pixel centres, not corners, are aligned."""
    geometry = Geometry("image.png", (8, 60), (8, 60), (8, 12))
    centres = (np.arange(12, dtype=np.float32) + 0.5) / 12
    back = geometry.bring_back(np.tile(centres, (8, 1)))
    expected = (np.arange(60) + 0.5) / 60
    np.testing.assert_allclose(back[0, 3:-3], expected[3:-3], atol=1e-6)  # beyond the outer centres it is constant
    assert back.dtype == np.float32 and back.shape == (8, 60)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.tuples(SIDES, SIDES),
    st.tuples(HALVED, HALVED),
    st.tuples(HALVED, HALVED),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_case_resized_twice_comes_back_too(size, packed, network, pad_first, pad_then, seed):
    """As packed at one size, then sampled at another."""
    mask = blobs(*size, seed, smooth=0.2)
    first, _ = fit(case_of(mask[None]), packed, pad_first)
    second, _ = fit(first, network, pad_then)
    geometry = second.geometry
    assert geometry.size == size and geometry.network == network
    assert all(outer >= inner for outer, inner in zip(geometry.canvas, size, strict=True))
    back = geometry.bring_back(second.raters[0].astype(np.float32)) > 0.5
    # Both grids move the outline, and the padding is rounded to own pixels
    lengths = zip(geometry.canvas, network, first.geometry.canvas, packed, strict=True)
    coarse = tuple(max(1, int(1 / (1 / n + c / n2 / c0 + 1 / c))) for c, n, c0, n2 in lengths)
    assert_within_a_pixel(back, mask, coarse, geometry.canvas)


def test_a_case_comes_back_whole():
    masks = np.stack([blobs(30, 20, k) for k in range(3)])
    seen, _ = fit(case_of(masks), (16, 16), pad=True)
    back = bring_back(seen)
    assert back.image.shape == (1, 30, 20) and back.raters.shape == (3, 30, 20) and back.raters.dtype == bool
    np.testing.assert_allclose(back.image[0], seen.geometry.bring_back(seen.image[0]))
    for mask, other in zip(back.raters, masks, strict=True):
        assert_within_a_pixel(mask, other, (16, 16), (30, 30))
    none = bring_back(seen._replace(raters=seen.raters[:0]))
    assert none.raters.shape == (0, 30, 20)
    unknown = seen._replace(geometry=None)
    assert bring_back(unknown) is unknown


def test_a_reader_fits_as_the_geometry_says(tmp_path):
    reader = CaseReader((8, 12), config=DataConfig(pad=True))
    case = reader.fit("a", case_of(blobs(20, 20, 0)[None]))
    assert case.size == (8, 12) and case.geometry.canvas == (20, 30) and case.geometry.network == (8, 12)


HEADER = {name: [1.0] * count if count else 1 for name, count in PLACING.items()}
FRAME = {"shape": [4, 1, 3], "header": HEADER}
GEOMETRIES = [
    Geometry("image.png", (3, 4), (3, 4), (8, 8)),
    Geometry("Müller \udcff.jpg", (3, 4), (4, 4), (8, 16), orientation=6),
    Geometry("image.nii", (3, 4), (3, 4), (3, 4), nifti=NiftiFrame.from_json(FRAME)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_json_and_back(geometry):
    assert Geometry.from_json(json.loads(str(geometry))) == geometry
    assert str(geometry).isascii()


@pytest.mark.parametrize(
    "change",
    [
        {"size": [0, 4]},
        {"size": [3]},
        {"size": "ab"},
        {"network": None},
        {"nifti": {"shape": [3, 4]}},
        {"nifti": []},
        {"nifti": {**FRAME, "shape": [3, 4]}},
        {"nifti": {**FRAME, "header": {**HEADER, "pixdim": [1.0] * 7}}},
        {"nifti": {**FRAME, "header": {**HEADER, "qform_code": "one"}}},
        {"nifti": {**FRAME, "header": {}}},
        {"orientation": "up"},
        {"canvas": [2, 4]},
        {"orientation": 9},
    ],
)
def test_what_cannot_be_is_refused(change):
    with pytest.raises(DataError, match="geometry"):
        Geometry.from_json({**GEOMETRIES[0].as_json(), **change})


@pytest.mark.parametrize("name", ["file", "size", "network"])
def test_what_lacks_is_refused(name):
    values = GEOMETRIES[0].as_json()
    del values[name]
    with pytest.raises(DataError, match="geometry"):
        Geometry.from_json(values)
    with pytest.raises(DataError, match="geometry"):
        Geometry.from_json([])
