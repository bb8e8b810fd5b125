import io

import numpy as np
from PIL import Image

from guided_diffusion.masks import legends, pictures


def test_sheet_shows_each_picture_where_it_is_labelled():
    image = np.linspace(0, 1, 16).reshape(4, 4)
    raters = np.arange(16).reshape(4, 4) < np.arange(1, 10)[:, None, None]  # nine that differ
    masks = np.zeros((2, 4, 4), bool)
    masks[1, :2] = True
    page = np.asarray(pictures.sheet(image, raters, masks))
    scale = pictures.TILE // 4
    step_x = 4 * scale + legends.MARGIN
    step_y = 4 * scale + legends.LABEL_HEIGHT + legends.MARGIN
    assert page.shape == (4 * step_y + legends.LABEL_HEIGHT + legends.MARGIN, 8 * step_x + legends.MARGIN, 3)

    def tile(row, column, colour=False):
        y, x = legends.MARGIN + row * step_y + legends.LABEL_HEIGHT, legends.MARGIN + column * step_x
        y += legends.LABEL_HEIGHT * (row > 0)  # of the scales
        shown = page[y : y + 4 * scale, x : x + 4 * scale]
        return shown if colour else shown[scale // 2 :: scale, scale // 2 :: scale, 0]

    def scale_of(column):
        """The grey levels of the scale below a tile of the first row, without its frame."""
        y, x = legends.MARGIN + legends.LABEL_HEIGHT + 4 * scale + 9, legends.MARGIN + column * step_x
        return page[y, x + 22 : x + 60, 0].astype(int)

    half = np.repeat([[255], [255], [0], [0]], 4, axis=1)
    np.testing.assert_array_equal(tile(0, 0), np.round(image * 255))
    np.testing.assert_array_equal(tile(0, 1), (half + 1) // 2)  # mean 1/2
    np.testing.assert_array_equal(tile(0, 2), half)  # variance 1/4 is white
    np.testing.assert_array_equal(tile(0, 3), half)  # entropy of 1/2: one bit
    assert all((np.diff(scale_of(column)) > 0).all() for column in (1, 2, 3))

    drawn = tile(1, 0, colour=True)
    assert (drawn[0, 0] == pictures.PALETTE[8 % 7]).all()  # the last mask to mark the corner
    for k in range(9):  # in rows of eight, after the outlines
        np.testing.assert_array_equal(tile(1 + (k + 1) // 8, (k + 1) % 8), raters[k] * 255)
    samples = tile(3, 0, colour=True)  # the second sample is the upper half
    assert (samples[0] == pictures.PALETTE[1]).all() and (samples[2 * scale - 1] == pictures.PALETTE[1]).all()
    assert (samples[2 * scale :] == np.round(image * 255)[2:].repeat(scale, 0).repeat(scale, 1)[..., None]).all()
    np.testing.assert_array_equal(tile(3, 2), masks[1] * 255)


def test_equal_masks_share_a_tile_whose_label_counts_them():
    masks = np.zeros((6, 4, 4), bool)
    masks[[1, 4, 5], 0] = True
    masks[2, 1] = True
    overview, *tiles = pictures.mask_tiles("6 samples", "sample", np.zeros((4, 4)), masks)
    assert overview.label == "6 samples"
    assert [tile.label for tile in tiles] == ["2 samples: 0, 3 (empty)", "3 samples: 1, 4, ...", "sample 2"]
    assert [tile.outline for tile in tiles] == [None, 1, 2]  # an empty mask has no outline
    assert all((tile.picture == masks[k]).all() for k, tile in enumerate(tiles))
    assert {tuple(colour) for colour in overview.picture.reshape(-1, 3).tolist()} == {
        (0, 0, 0),
        pictures.PALETTE[1],
        pictures.PALETTE[2],
    }


def test_chips_have_the_colours_and_dashes_of_their_outlines():
    seen = set()
    for k in range(3 * len(pictures.PALETTE)):
        chip = np.asarray(legends.label_picture("rater", k, 1))[6, : legends.CHIP[0]]
        coloured = (chip != legends.PAPER).any(1)
        assert (chip[coloured] == pictures.PALETTE[k % len(pictures.PALETTE)]).all() and coloured[0]
        assert coloured.all() == (k < len(pictures.PALETTE))
        seen.add(chip.tobytes())
    assert len(seen) == 3 * len(pictures.PALETTE)
    square = np.zeros((40, 40), bool)
    square[5:35, 5:35] = True
    masks = [*[square & False] * len(pictures.PALETTE), square]
    share = (pictures.outlines(np.zeros((40, 40)), masks)[5, 5:35] == pictures.PALETTE[0]).all(1).mean()
    assert 0.3 < share < 0.7


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


def red_and_green(side=16):
    """An image [3, H, W], red on the left and green on the right, of one luminance."""
    columns = np.repeat([(200, 41, 37), (60, 107, 60)], side // 2, axis=0) / 255
    return np.repeat(columns.T[:, None], side, axis=1)


def test_colour_images_are_in_colour_on_sheets_outlines_and_movies():
    image = red_and_green()
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:12] = True
    expected = np.round(np.moveaxis(image, 0, -1) * 255).repeat(8, 0).repeat(8, 1)
    outlined = pictures.outlines(image, [mask], 8)
    drawn = (outlined == pictures.PALETTE[0]).all(-1)
    assert drawn.any() and drawn[32, 32] and (outlined[~drawn] == expected[~drawn]).all()

    page = np.asarray(pictures.sheet(image, mask[None], mask[None]))
    top, left = legends.MARGIN + legends.LABEL_HEIGHT, legends.MARGIN
    np.testing.assert_array_equal(page[top : top + 128, left : left + 128], expected)
    row = top + 2 * legends.LABEL_HEIGHT + 128 + legends.MARGIN  # the raters' row, below a scale
    np.testing.assert_array_equal(page[row : row + 128, left : left + 128], outlined)

    film = Image.open(io.BytesIO(pictures.movie(image, [np.full((16, 16), value) for value in (0.2, 1.0)])))
    for k in range(film.n_frames):
        film.seek(k)
        shown = np.asarray(film.convert("RGB")).astype(int)[top : top + 128, left : left + 128]
        assert abs(shown - expected).max() <= 8  # of 256 colours


def test_three_equal_planes_are_shown_as_one():
    rng = np.random.default_rng(0)
    plane, masks = 1.2 * rng.random((24, 16)) - 0.1, rng.random((9, 24, 16)) < 0.5
    for shown in (plane, (plane < 0.5).astype(float)):
        pages = [np.asarray(pictures.sheet(image, masks[:2], masks)) for image in (shown, np.stack([shown] * 3))]
        np.testing.assert_array_equal(*pages)


def test_what_is_shown_of_an_image_is_its_colours_or_its_first_plane():
    image = np.arange(16.0).reshape(4, 2, 2)
    np.testing.assert_array_equal(pictures.shown_image(image, True), image[:3])
    np.testing.assert_array_equal(pictures.shown_image(image, False), image[0])
    np.testing.assert_array_equal(pictures.shown_image(image[:1], True), image[0])  # a grey case among colour ones


def test_movies_run_from_noise_to_the_mask():
    frames = [np.full((16, 16), value) for value in (0.0, 0.5, 1.0)]
    film = Image.open(io.BytesIO(pictures.movie(np.zeros((16, 16)), frames)))
    assert film.n_frames >= 3 and film.is_animated
    x, y = legends.MARGIN + 128 + legends.MARGIN + 60, legends.MARGIN + legends.LABEL_HEIGHT + 60
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
    columns = inked(narrow, legends.MARGIN, legends.LABEL_HEIGHT)
    gaps = np.diff(np.flatnonzero(np.diff(np.concatenate([[False], columns, [False]]).astype(int))))[1::2]
    assert (gaps >= legends.MARGIN).sum() >= 3  # between four labels
    wide = pictures.grid([[("image", np.ones((512, 512)))]])
    assert wide.height == 512 + 4 * legends.LABEL_HEIGHT + 2 * legends.MARGIN
    assert (
        np.flatnonzero(inked(wide, 0, wide.height)).max()
        > 3 * np.flatnonzero(inked(pictures.grid([[("image", np.ones((128, 128)))]]), 0, 128)).max()
    )
