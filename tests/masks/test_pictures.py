import io

import numpy as np
from PIL import Image

from guided_diffusion.masks import pictures


def test_sheet_shows_each_picture_where_it_is_labelled():
    image = np.linspace(0, 1, 16).reshape(4, 4)
    raters = np.zeros((9, 4, 4), bool)
    raters[8] = True  # the ninth comes first in a second row
    masks = np.zeros((2, 4, 4), bool)
    masks[1, :2] = True
    page = np.asarray(pictures.sheet(image, raters, masks))
    scale = pictures.TILE // 4
    step_x = 4 * scale + pictures.MARGIN
    step_y = 4 * scale + pictures.LABEL_HEIGHT + pictures.MARGIN
    assert page.shape == (4 * step_y + pictures.MARGIN, 8 * step_x + pictures.MARGIN, 3)

    def tile(row, column, colour=False):
        y, x = pictures.MARGIN + row * step_y + pictures.LABEL_HEIGHT, pictures.MARGIN + column * step_x
        shown = page[y : y + 4 * scale, x : x + 4 * scale]
        return shown if colour else shown[scale // 2 :: scale, scale // 2 :: scale, 0]

    np.testing.assert_array_equal(tile(0, 0), np.round(image * 255))
    np.testing.assert_array_equal(tile(0, 1), np.repeat([[128], [128], [0], [0]], 4, axis=1))  # mean 1/2
    np.testing.assert_array_equal(tile(0, 2), np.repeat([[255], [255], [0], [0]], 4, axis=1))  # variance 1/4 is white
    np.testing.assert_array_equal(tile(0, 3), np.repeat([[255], [255], [0], [0]], 4, axis=1))  # entropy of 1/2: one bit
    samples = tile(0, 5, colour=True)  # the second sample is the upper half, outlined in the second colour
    assert (samples[0] == pictures.PALETTE[1]).all() and (samples[2 * scale - 1] == pictures.PALETTE[1]).all()
    assert (samples[2 * scale :] == np.round(image * 255)[2:].repeat(scale, 0).repeat(scale, 1)[..., None]).all()
    assert (tile(0, 4, colour=True)[:, 0] == pictures.PALETTE[8 % 7]).all()  # the ninth rater marks all
    assert (tile(1, 0) == 0).all() and (tile(2, 0) == 255).all()
    np.testing.assert_array_equal(tile(3, 1), masks[1] * 255)


def test_sheet_without_raters():
    assert pictures.sheet(np.zeros((8, 8)), np.zeros((0, 8, 8), bool), np.zeros((1, 8, 8), bool)).width > 0


def test_outlines_are_the_outermost_pixels_in_colours_that_differ():
    mask = np.zeros((6, 6), bool)
    mask[1:5, 1:5] = True
    page = pictures.outlines(np.full((6, 6), 0.2), [mask, mask[::-1] & False])
    ring = mask.copy()
    ring[2:4, 2:4] = False
    assert (page[ring] == pictures.PALETTE[0]).all() and (page[~ring] == 51).all()
    colours = np.array(pictures.PALETTE, dtype=int)
    assert min(abs(a - b).sum() for k, a in enumerate(colours) for b in colours[:k]) > 80


def test_movies_run_from_noise_to_the_mask():
    frames = [np.full((16, 16), value) for value in (0.0, 0.5, 1.0)]
    film = Image.open(io.BytesIO(pictures.movie(np.zeros((16, 16)), frames)))
    assert film.n_frames >= 3 and film.is_animated
    x, y = pictures.MARGIN + 128 + pictures.MARGIN + 60, pictures.MARGIN + pictures.LABEL_HEIGHT + 60
    seen = []
    for k in range(film.n_frames):
        film.seek(k)
        seen.append(film.convert("L").getpixel((x, y)))
    assert seen[0] == 0 and abs(seen[1] - 128) <= 2 and seen[-1] == 255
    assert pictures.movie_steps(1000) >= {0, 999} and len(pictures.movie_steps(1000)) == pictures.MOVIE_FRAMES
    assert pictures.movie_steps(3) == {0, 1, 2}


def test_labels_lie_beside_each_other_and_grow_with_the_tiles():
    def inked(page, top, height):
        """Columns of a page with ink in the lines of labels."""
        return (np.asarray(page.convert("L"))[top : top + height] < 200).any(0)

    narrow = pictures.sheet(np.zeros((80, 20)), np.zeros((0, 80, 20), bool), np.zeros((1, 80, 20), bool))
    columns = inked(narrow, pictures.MARGIN, pictures.LABEL_HEIGHT)
    gaps = np.diff(np.flatnonzero(np.diff(np.concatenate([[False], columns, [False]]).astype(int))))[1::2]
    assert (gaps >= pictures.MARGIN).sum() >= 5  # between six labels
    wide = pictures.grid([[("image", np.ones((512, 512)))]])
    assert wide.height == 512 + 4 * pictures.LABEL_HEIGHT + 2 * pictures.MARGIN
    assert (
        np.flatnonzero(inked(wide, 0, wide.height)).max()
        > 3 * np.flatnonzero(inked(pictures.grid([[("image", np.ones((128, 128)))]]), 0, 128)).max()
    )
