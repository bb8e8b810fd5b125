"""Augmentation: image and mask are changed alike, and no more than they may be."""

import math

import pytest
import torch

from guided_diffusion.data import augmentation
from guided_diffusion.data.augmentation import (
    affine_grid,
    augment,
    bias_field,
    change_colour,
    change_contrast,
    check_augment,
    displacement,
    read_off,
    resample,
)
from guided_diffusion.data.symmetry import symmetries
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.words import AUGMENTATIONS, split_kind
from guided_diffusion.nn import seeded_generator


@pytest.mark.parametrize(
    "kind, count", [("none", 1), ("mirror", 2), ("flip", 4), ("rotate", 4), ("flip+rotate", 8), ("rotate+mirror", 8)]
)
def test_augmentation_draws_every_symmetry_evenly_and_turns_image_and_mask_alike(kind, count):
    picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    u = ((torch.arange(16 * count) + 0.5) / (16 * count))[:, None].expand(-1, augmentation.NUM_DRAWS)
    image, mask = augment(picture.expand(len(u), 2, 3, 3), picture.expand(len(u), 1, 3, 3), kind, u)
    assert image.shape == (len(u), 2, 3, 3) and torch.equal(image[:, :1], mask) and torch.equal(image[:, 1:], mask)
    seen, times = torch.unique(mask.flatten(1), dim=0, return_counts=True)
    assert len(seen) == len(symmetries(split_kind(kind))) == count and (times == 16).all()
    for turned in mask:  # a symmetry of the square keeps the middle, and neighbours stay neighbours
        assert turned[0, 1, 1] == 4
        row = turned[0, 0]
        assert abs(row[1] - row[0]) == abs(row[2] - row[1]) and abs(row[1] - row[0]) in (1, 3)
    if kind == "flip":
        assert {tuple(corner) for corner in mask[:, 0, [0, -1], [0, -1]].tolist()} == {(0, 8), (2, 6), (6, 2), (8, 0)}
    if kind == "mirror":
        assert {tuple(column) for column in mask[:, 0, :, 0].tolist()} == {(0, 3, 6), (2, 5, 8)}


def disc(size, row, column, radius):
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    return ((y - row) ** 2 + (x - column) ** 2 <= radius**2).float()[None, None]


def moved_disc(before, grid):
    """Its new centre, y and x, and its area."""
    mask = (resample(before, grid) > 0.5).float()
    y, x = mask[0, 0].nonzero().float().mean(0) + 0.5
    return float(y), float(x), float(mask.sum())


def deform(before, *by):
    return moved_disc(before, affine_grid(before.shape, torch.tensor([by]).float()))


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_picture_is_turned_resized_and_moved_by_what_the_names_say(sign):
    """A disc beside the middle, whose new centre and area are known."""
    before = disc(64, 32, 44, 6)  # 12 pixels to the right of the middle
    turned = deform(before, sign, 0, 0, 0)
    assert math.hypot(turned[0] - 32, turned[1] - 32) == pytest.approx(12, abs=0.2)
    assert abs(math.atan2(turned[0] - 32, turned[1] - 32)) == pytest.approx(augmentation.TURN, abs=0.02)
    resized = deform(before, 0, sign, 0, 0)
    assert resized[:2] == pytest.approx((32, 32 + 12 * math.exp(sign * augmentation.RESIZE)), abs=0.2)
    assert resized[2] / float(before.sum()) == pytest.approx(math.exp(2 * sign * augmentation.RESIZE), rel=0.06)
    moved = deform(before, 0, 0, sign, sign)
    assert moved[:2] == pytest.approx((32 - sign * augmentation.MOVE * 64, 44 - sign * augmentation.MOVE * 64), abs=0.2)


@pytest.mark.parametrize("shape", [(48, 96), (96, 48)])
def test_a_picture_that_is_not_square_is_turned_without_a_change_of_shape(shape):
    height, width = shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    before = ((y - height / 2) ** 2 + (x - width / 2 - 12) ** 2 <= 36).float()[None, None]
    for sign in (-1, 1):
        turned = deform(before, sign, 0, 0, 0)
        assert math.hypot(turned[0] - height / 2, turned[1] - width / 2) == pytest.approx(12, abs=0.2)
        angle = math.atan2(turned[0] - height / 2, turned[1] - width / 2)
        assert abs(angle) == pytest.approx(augmentation.TURN, abs=0.02)
        assert turned[2] == pytest.approx(float(before.sum()), rel=0.03)
        moved = deform(before, 0, 0, sign, sign)
        share = sign * augmentation.MOVE
        assert moved[:2] == pytest.approx((height / 2 - share * height, width / 2 + 12 - share * width), abs=0.2)


def test_elastic_moves_what_lies_under_a_point_by_its_share_and_leaves_the_far_side():
    before, by = disc(64, 63 / 3 + 0.5, 63 / 3 + 0.5, 4), torch.zeros(1, 2, augmentation.POINTS, augmentation.POINTS)
    still = moved_disc(before, affine_grid(before.shape, torch.zeros(1, 4)))
    by[0, 0, 1, 1] = 1  # in x, the point under the disc
    grid = affine_grid(before.shape, torch.zeros(1, 4)) + displacement(before.shape, by.flatten(1))
    moved = moved_disc(before, grid)
    assert moved[0] == pytest.approx(still[0], abs=0.1)
    assert moved[1] == pytest.approx(still[1] - augmentation.STRETCH * 64, abs=0.3)
    assert moved_disc(disc(64, 50, 50, 4), grid)[:2] == pytest.approx((50, 50), abs=0.3)
    whole = displacement(before.shape, torch.ones(1, 2 * augmentation.POINTS**2))
    torch.testing.assert_close(whole, torch.full((1, 64, 64, 2), 2 * augmentation.STRETCH))


def test_all_parts_together_change_image_and_masks_alike_and_masks_stay_binary():
    """Where the image is a smoothed mask, it still is one afterwards, but for its contrast."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.cat([disc(32, 12, 18, 5), disc(32, 12, 18, 8)], dim=1).expand(40, -1, -1, -1)
    image, changed = augment(
        0.3 + 0.4 * masks[:, :1],
        masks,
        "flip+rotate+deform+elastic+contrast",
        torch.rand(40, augmentation.NUM_DRAWS, generator=generator),
    )
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    assert (changed[:, 1] >= changed[:, 0]).all() and len({tuple(row.flatten().tolist()) for row in changed}) == 40
    for grey, mask in zip(image, changed[:, 0], strict=True):
        middle = (grey.min() + grey.max()) / 2
        assert ((grey[0] > middle).float() - mask).abs().sum() <= 1


def test_contrast_and_brightness_stay_within_what_the_names_say():
    image = torch.tensor([0.4, 0.6]).repeat(8).reshape(1, 1, 4, 4).expand(3, 2, -1, -1)
    changed = change_contrast(image, torch.tensor([[0, 0], [1, -1], [-1, 1.0]]))
    torch.testing.assert_close(changed[0], image[0])
    for row, sign in ((1, 1), (2, -1)):
        assert float(changed[row].mean()) == pytest.approx(0.5 - sign * augmentation.BRIGHTNESS, abs=1e-6)
        assert float(changed[row].max() - changed[row].min()) == pytest.approx(
            0.2 * math.exp(sign * augmentation.CONTRAST), abs=1e-6
        )
    assert change_contrast(torch.ones(1, 1, 4, 4), torch.ones(1, 2)).max() == 1


def draws(**shares):
    """Uniform numbers [1, NUM_DRAWS] that change nothing but by shares in [-1, 1] of the slices or indices named."""
    u = torch.full((1, augmentation.NUM_DRAWS), 0.5)
    for name, share in shares.items():
        u[:, getattr(augmentation, name)] = (torch.as_tensor(share) + 1) / 2
    return u


@pytest.mark.parametrize("share, power", [(1, 1.5), (-1, 1 / 1.5), (0, 1)])
def test_gamma_takes_the_image_to_a_power_and_leaves_black_white_and_masks(share, power):
    levels = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    image, masks = augment(levels, (levels > 0.5).float(), "gamma", draws(EXPONENT=share))
    torch.testing.assert_close(image, levels**power)
    assert torch.equal(masks, (levels > 0.5).float())


def test_bias_makes_a_point_brighter_by_its_share_and_leaves_the_others():
    shares = torch.zeros(augmentation.POINTS, augmentation.POINTS)
    shares[0, 0], shares[3, 3] = 1, -1
    field = bias_field((1, 1, 64, 64), shares.reshape(1, -1))[0, 0]
    assert (
        field[0, 0] == pytest.approx(1.4)
        and field[63, 63] == pytest.approx(1 / 1.4)
        and field[0, 63] == pytest.approx(1)
    )
    image, _ = augment(
        torch.full((1, 2, 64, 64), 0.5), torch.zeros(1, 1, 64, 64), "bias", draws(FIELD=shares.flatten())
    )
    torch.testing.assert_close(image, 0.5 * field.expand(1, 2, -1, -1))
    assert augment(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), "bias", draws(FIELD=1.0))[0].max() == 1


def test_each_part_takes_numbers_of_its_own():
    """Each element of u is read by exactly one part, found by changing one at a time."""
    image = 0.3 + 0.4 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    read = {}
    for part in ("mirror", "deform", "elastic", "contrast", "gamma", "bias", "colour"):
        plain, _ = augment(image, (image > 0.5).float(), part, draws())
        for place in range(augmentation.NUM_DRAWS):
            u = draws()
            u[0, place] = 0.2
            if not torch.equal(augment(image, (image > 0.5).float(), part, u)[0], plain):
                read.setdefault(place, []).append(part)
    assert sorted(read) == list(range(augmentation.NUM_DRAWS)) and all(len(parts) == 1 for parts in read.values())


# -- colour -----------------------------------------------------------------------------------------------------------


def colours(count=1, channels=3, seed=0):
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def luminance(image):
    return 0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2]


@pytest.mark.parametrize("sign", [-1, 1])
def test_saturation_scales_the_distance_from_grey_and_keeps_luminance_and_grey_pixels(sign):
    image = 0.4 + 0.2 * colours()
    image[..., :4] = image[:, :1, :, :4]  # grey pixels
    changed = change_colour(image, torch.tensor([[sign, 0, 0, 0.0]]))
    torch.testing.assert_close(luminance(changed), luminance(image))
    torch.testing.assert_close(changed[..., :4], image[..., :4])
    spread, before = (x.amax(1) - x.amin(1) for x in (changed, image))
    torch.testing.assert_close(spread, before * 1.3**sign)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_gains_make_one_channel_brighter_by_its_share(channel):
    image, by = 0.9 * colours(), torch.zeros(1, 4)
    by[0, 1 + channel] = 1
    changed = change_colour(image, by)
    expected = image.clone()
    expected[:, channel] *= 1.1
    torch.testing.assert_close(changed, expected.clamp(0, 1))


def test_colour_changes_red_green_and_blue_only_stays_in_range_and_is_determined_by_its_numbers():
    image, masks = colours(40, channels=4), (colours(40, channels=2, seed=1) > 0.5).float()
    u = torch.rand(40, augmentation.NUM_DRAWS, generator=torch.Generator().manual_seed(2))
    changed, kept = augment(image, masks, "colour", u)
    assert torch.equal(kept, masks) and torch.equal(changed[:, 3], image[:, 3])
    assert all((after != before).any() for after, before in zip(changed, image, strict=True))
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, augment(image, masks, "colour", u)[0])
    extreme = change_colour(image[:2, :3], torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))
    assert extreme.min() >= 0 and extreme.max() == 1


def test_contrast_changes_all_colours_of_an_image_alike():
    image = 0.45 + 0.1 * colours()
    changed, _ = augment(image, torch.zeros(1, 1, 16, 16), "contrast", draws(GREYS=0.8))
    slopes = (changed - changed.mean()) / (image - image.mean())
    torch.testing.assert_close(slopes, torch.full_like(slopes, 1.3**0.8), rtol=1e-3, atol=1e-3)


def test_the_numbers_of_earlier_parts_stay_as_they_were_before_colour():
    """Runs with other parts draw the same numbers as when an image had 56 of them."""
    assert augmentation.FIELD.stop == augmentation.COLOURS.start == 56 and augmentation.NUM_DRAWS > 56
    for place in range(50):
        longer, shorter = (
            torch.rand(count, generator=seeded_generator(0, "draw", place)) for count in (augmentation.NUM_DRAWS, 56)
        )
        assert torch.equal(longer[:56], shorter)


@pytest.mark.parametrize(
    "kind, colour, words",
    [
        ("flip+gamma", True, ["--augment flip+gamma: gamma changes grey", "--augment flip,", "--grey True"]),
        ("bias+gamma", True, ["bias and gamma change grey", "in colour: use --augment none,"]),
        ("rotate+colour+deform", False, ["colour changes colour", "not in colour: use --augment rotate+deform"]),
    ],
)
def test_parts_that_do_not_fit_the_cases_are_refused(kind, colour, words):
    with pytest.raises(ConfigError) as refused:
        check_augment(kind, colour)
    assert "\n" not in str(refused.value) and all(word in str(refused.value) for word in words), refused.value
    assert ("--grey" in str(refused.value)) == colour


def test_parts_that_fit_the_cases_are_not_refused():
    check_augment("none", True)
    check_augment("none", False)
    check_augment("+".join(part for part in AUGMENTATIONS if part not in ("gamma", "bias", "flip")), True)
    check_augment("+".join(part for part in AUGMENTATIONS if part not in ("colour", "flip")), False)


def test_exclusive_classes_are_read_off_with_the_background_pixel_by_pixel():
    """Two groups of two classes: the largest of background and classes, ties to the first."""
    values = [0, 0.25, 0.375, 0.5, 0.625, 1]
    pairs = [(a, b) for a in values for b in values if a + b <= 1]
    soft = torch.tensor(pairs).T.reshape(1, 2, 1, -1)
    masks = read_off(torch.cat([soft, soft.flip(1)], dim=1), exclusive=2)
    for place, (a, b) in enumerate(pairs):
        for group, (first, second) in enumerate([(a, b), (b, a)]):
            candidates = [1 - first - second, first, second]
            chosen = candidates.index(max(candidates))
            assert masks[0, 2 * group : 2 * group + 2, 0, place].tolist() == [chosen == 1, chosen == 2]
    assert torch.equal(read_off(soft), (soft > 0.5).float())
    assert torch.equal(read_off(soft[:, :1]), read_off(soft[:, :1].repeat(1, 1, 1, 1), exclusive=1))


def test_no_hole_opens_between_exclusive_classes():
    """Three classes that fill the picture and meet in every pixel, for two raters."""
    labels = torch.randint(3, (32, 32), generator=torch.Generator().manual_seed(1))
    masks = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float()
    both = torch.cat([masks, masks.flip(1)])[None].expand(20, -1, -1, -1)
    u = torch.rand(20, augmentation.NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(20, 1, 32, 32)
    _, changed = augment(image, both, "flip+rotate+deform+elastic", u, exclusive=3)
    _, channel_by_channel = augment(image, both, "flip+rotate+deform+elastic", u)
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    assert (changed.unflatten(1, (2, 3)).sum(2) == 1).all()  # one class at each pixel, none is background
    assert channel_by_channel.unflatten(1, (2, 3)).sum(2).mean() < 0.95


def test_regions_stay_nested():
    masks = torch.cat([disc(32, 16, 16, 9), disc(32, 16, 14, 5)], dim=1).expand(20, -1, -1, -1)
    u = torch.rand(20, augmentation.NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    _, changed = augment(torch.zeros(20, 1, 32, 32), masks, "deform+elastic", u)
    assert (changed[:, 0] >= changed[:, 1]).all() and changed[:, 1].sum(dim=(1, 2)).min() > 0


def test_a_pixel_interpolated_from_an_ignored_one_is_ignored():
    """A mask that differs at ignored pixels alone is the same at all others afterwards."""
    ignored = disc(32, 10, 12, 4) + disc(32, 20, 22, 3)
    masks = disc(32, 12, 12, 6)
    other = torch.where(ignored > 0, 1 - masks, masks)
    u = torch.rand(20, augmentation.NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    found = []
    for mask in (masks, other):
        planes = torch.cat([mask, ignored], dim=1).expand(20, -1, -1, -1)
        image = torch.zeros(20, 1, 32, 32)
        found.append(augment(image, planes, "flip+rotate+deform+elastic", u, ignored=True)[1])
    assert torch.equal(found[0][:, 1], found[1][:, 1])
    counted = found[0][:, 1] == 0
    assert torch.equal(found[0][:, 0][counted], found[1][:, 0][counted])
    assert not torch.equal(found[0][:, 0], found[1][:, 0])
    grown = found[0][:, 1].sum(dim=(1, 2)) / ignored.sum()
    assert grown.min() > 0.6 and grown.max() < 2.6  # of small discs, whose rim counts


def test_symmetries_turn_the_map_of_ignored_pixels_as_the_masks():
    picture = (torch.arange(9.0) % 4 == 0).float().reshape(1, 1, 3, 3).expand(32, 2, 3, 3)
    u = torch.rand(32, augmentation.NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    _, planes = augment(picture[:, :1], picture, "flip+rotate", u, ignored=True)
    assert torch.equal(planes[:, 0], planes[:, 1])
