"""Ignored pixels: no loss term and no gradient depends on the mask there, and the means are over the others."""

import pytest
import torch
from test_class_channels import KINDS, METHODS, build, inputs_of

from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.methods.mask_mixture import MaskMixture
from guided_diffusion.nn import mean_flat, sum_flat
from guided_diffusion.sampling.protocol import without_ignored

VALID = torch.ones(2, 1, 16, 16)
VALID[0, :, :5], VALID[1, :, :, 9:12] = 0, 0
CLASSES = {"one": "", **KINDS}


def inputs(model, classes):
    image, masks, t, noise, rows = inputs_of(model, classes if classes in KINDS else "regions")
    return image, masks[:, : model.classes.count], t, noise, rows


def terms_and_gradients(model, inputs, valid):
    torch.manual_seed(0)  # of dropout
    model.zero_grad()
    terms = model(*inputs, valid=valid)
    terms["loss"].sum().backward()
    return terms, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("method", [*METHODS, "use_kl"])
def test_what_raters_painted_on_ignored_pixels_has_no_effect(method, classes):
    flags = {**METHODS["cimd"], "use_kl": True} if method == "use_kl" else METHODS[method]
    model = build(flags, CLASSES[classes])
    image, masks, *rest = inputs(model, classes)
    rest[0][0] = 0  # the likelihood of x_0 itself
    other = torch.where(VALID[rest[-1]] > 0, masks, masks.flip(0))
    assert not torch.equal(masks, other)
    found = [terms_and_gradients(model, (image, mask, *rest), VALID) for mask in (masks, other)]
    for name in found[0][0]:
        assert torch.equal(found[0][0][name], found[1][0][name]), name
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    counted = [terms_and_gradients(model, (image, mask, *rest), None)[0]["loss"] for mask in (masks, other)]
    assert not torch.allclose(*counted)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_without_ignored_pixels_changes_nothing_but_rounding(method):
    model = build(METHODS[method], KINDS["exclusive"])
    given = inputs(model, "exclusive")
    found = [terms_and_gradients(model, given, valid) for valid in (None, torch.ones_like(VALID))]
    for name in found[0][0]:
        torch.testing.assert_close(found[0][0][name], found[1][0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["unet", "prob-unet", "implicit-ensemble", "cimd", "one guess"])
def test_the_prediction_at_ignored_pixels_has_no_gradient(method):
    model = build(METHODS[method], KINDS["exclusive"])
    given = inputs(model, "exclusive")
    seen = []
    last = model.head if method == "unet" else model.combiner if method == "prob-unet" else model.model
    last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    loss = model(*given, valid=VALID)["loss"].sum()
    (gradient,) = torch.autograd.grad(loss, seen[0])
    ignored = ((VALID if len(gradient) == 2 else VALID[given[-1]]) == 0).expand_as(gradient)
    assert not gradient[ignored].any() and gradient[~ignored].any()


def test_the_mixture_is_weighed_by_the_pixels_that_count():
    """As by an image that has only those."""
    mixture = MaskMixture(DiffusionConfig(diffusion_steps=40, noise_schedule="cosine"), -1.0)
    rho, mu, x = torch.randn(1, 3, 4, 4), mixture.bounded(torch.randn(1, 3, 4, 4)), torch.randn(1, 1, 4, 4)
    valid = torch.ones(1, 1, 4, 4)
    valid[..., 2:] = 0
    guess = mixture(rho, mu, x, torch.tensor([10]), valid)
    part = mixture(rho[..., :2], mu[..., :2], x[..., :2], torch.tensor([10]))
    torch.testing.assert_close(guess[..., :2], part)
    assert not torch.allclose(guess, mixture(rho, mu, x, torch.tensor([10])))


def test_sums_and_means_are_over_the_pixels_that_count():
    x, valid = torch.arange(24.0).reshape(2, 3, 2, 2), torch.tensor([[[[1.0, 0], [0, 1]]], [[[0.0, 0], [0, 0]]]])
    assert sum_flat(x, valid).tolist() == [0 + 3 + 4 + 7 + 8 + 11, 0]
    assert mean_flat(x, valid).tolist() == [33 / 6, 0]
    assert mean_flat(x).tolist() == [5.5, 17.5] and sum_flat(x).tolist() == [66, 210]


def test_the_map_of_an_image_is_that_of_all_its_masks():
    masks, rows = torch.ones(3, 2, 2, 2), torch.tensor([1, 0, 1])
    valid = torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1]]).reshape(2, 1, 2, 2)
    kept, each = without_ignored(masks, valid, rows)
    assert torch.equal(each, valid[rows]) and torch.equal(kept, valid[rows].expand(3, 2, 2, 2))
    assert without_ignored(masks, None, rows) == (masks, None)
