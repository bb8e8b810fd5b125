"""The symmetries of the square, and predictions averaged over them."""

import numpy as np
import pytest
import torch
from helpers import TINY, nonzero, segmenter_of

from guided_diffusion.data.symmetry import symmetries, turn_and_mirror, turn_back
from guided_diffusion.flags.words import split_kind

KINDS = ("none", "mirror", "flip", "rotate", "mirror+rotate", "flip+rotate")
BY_HAND = {  # the pictures that numpy makes of one, each once
    "none": [lambda a: a],
    "mirror": [lambda a: a, np.fliplr],
    "flip": [lambda a: a, np.fliplr, np.flipud, lambda a: a[::-1, ::-1]],
    "rotate": [lambda a, k=k: np.rot90(a, k) for k in range(4)],
    "flip+rotate": [lambda a, k=k, f=f: f(np.rot90(a, k)) for k in range(4) for f in (np.asarray, np.transpose)],
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_symmetries_are_those_that_the_names_say(kind):
    picture = torch.arange(16.0).reshape(4, 4)
    made = [turn_and_mirror(picture, symmetry).flatten().tolist() for symmetry in symmetries(split_kind(kind))]
    assert sorted(made) == sorted(change(picture.numpy()).flatten().tolist() for change in BY_HAND[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_symmetries_are_a_group_and_each_is_undone(kind):
    picture, chosen = torch.arange(18.0).reshape(2, 3, 3), symmetries(split_kind(kind))
    made = {tuple(turn_and_mirror(picture, symmetry).flatten().tolist()) for symmetry in chosen}
    for first in chosen:
        once = turn_and_mirror(picture, first)
        assert torch.equal(turn_back(once, first), picture)
        assert {tuple(turn_and_mirror(once, second).flatten().tolist()) for second in chosen} == made
    assert torch.equal(turn_and_mirror(picture, chosen[0]), picture)


@pytest.mark.parametrize("kind", ["mirror", "flip"])
def test_a_picture_that_is_not_square_keeps_its_shape(kind):
    picture = torch.arange(12.0).reshape(3, 4)
    made = [turn_and_mirror(picture, symmetry) for symmetry in symmetries(split_kind(kind))]
    assert sorted(a.tolist() for a in made) == sorted(change(picture.numpy()).tolist() for change in BY_HAND[kind])


def build(**flags):
    torch.manual_seed(0)
    return nonzero(segmenter_of({**TINY, "dropout": 0.0, **flags})).eval()


@pytest.mark.parametrize(
    "architecture", [{}, {"architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1,1"}]
)
@pytest.mark.parametrize("kind", ["mirror", "flip+rotate"])
def test_an_averaged_prediction_turns_with_its_image_and_is_the_mean_of_those_of_the_turned(architecture, kind):
    segmenter, chosen = build(**architecture), symmetries(split_kind(kind))
    image, rows, x, t = (
        torch.rand(2, 1, 16, 16),
        torch.tensor([0, 1, 1]),
        torch.randn(3, 1, 16, 16),
        torch.tensor([7, 7, 7]),
    )
    with torch.no_grad():
        plain = segmenter.sampling_denoiser(image, rows)(x, t)
        averaged = segmenter.sampling_denoiser(image, rows, kind)(x, t)
        turned = [segmenter.denoiser(turn_and_mirror(image, g), rows)(turn_and_mirror(x, g), t) for g in chosen]
        torch.testing.assert_close(
            averaged,
            sum(turn_back(output, g) for output, g in zip(turned, chosen, strict=True)) / len(chosen),
            rtol=0,
            atol=1e-5,
        )
        assert (averaged - plain).abs().max() > 1e-3
        for g in chosen:
            again = segmenter.sampling_denoiser(turn_and_mirror(image, g), rows, kind)(turn_and_mirror(x, g), t)
            torch.testing.assert_close(again, turn_and_mirror(averaged, g), rtol=0, atol=1e-5)
