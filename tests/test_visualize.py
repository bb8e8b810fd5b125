import numpy as np

from guided_diffusion import visualize


def test_sheet_shows_each_picture_where_it_is_labelled():
    image = np.linspace(0, 1, 16).reshape(4, 4)
    raters = np.zeros((9, 4, 4), bool)
    raters[8] = True  # the ninth comes first in a second row
    masks = np.zeros((2, 4, 4), bool)
    masks[1, :2] = True
    page = np.asarray(visualize.sheet(image, raters, masks))
    scale = visualize.TILE // 4
    step_x = 4 * scale + visualize.MARGIN
    step_y = 4 * scale + visualize.LABEL_HEIGHT + visualize.MARGIN
    assert page.shape == (4 * step_y + visualize.MARGIN, 8 * step_x + visualize.MARGIN)

    def tile(row, column):
        y, x = visualize.MARGIN + row * step_y + visualize.LABEL_HEIGHT, visualize.MARGIN + column * step_x
        return page[y : y + 4 * scale, x : x + 4 * scale][scale // 2 :: scale, scale // 2 :: scale]

    np.testing.assert_array_equal(tile(0, 0), np.round(image * 255))
    np.testing.assert_array_equal(tile(0, 1), np.repeat([[128], [128], [0], [0]], 4, axis=1))  # mean 1/2
    np.testing.assert_array_equal(tile(0, 2), np.repeat([[255], [255], [0], [0]], 4, axis=1))  # variance 1/4 is white
    assert (tile(1, 0) == 0).all() and (tile(2, 0) == 255).all()
    np.testing.assert_array_equal(tile(3, 1), masks[1] * 255)


def test_sheet_without_raters():
    assert visualize.sheet(np.zeros((8, 8)), np.zeros((0, 8, 8), bool), np.zeros((1, 8, 8), bool)).width > 0
