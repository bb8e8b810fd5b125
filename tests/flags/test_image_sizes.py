"""Sizes of images, from Python."""

import pytest

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.sizes import as_size, checked_size


@pytest.mark.parametrize("value", ["32", 32.5, (3, 3, 3), 0, (4, 0), True, (1.0, 2)])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(ConfigError, match="image_size .* must be a number of pixels, or a pair"):
        checked_size(value)


def test_a_size_is_a_pair():
    assert as_size([3, 4]) == (3, 4) and as_size(5) == (5, 5)
    assert [checked_size(value) for value in (None, 5, (3, 4))] == [None, 5, (3, 4)]
