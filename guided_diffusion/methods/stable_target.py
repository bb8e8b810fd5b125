"""Stable Target Field (Xu, Tong and Jaakkola 2023): a target of lower variance for images with several masks."""

import math

from jaxtyping import Int
from torch import Tensor

from ..gaussian_diffusion import GaussianDiffusion, Masks, Steps


def stable_target(diffusion: GaussianDiffusion, x_start: Masks, x_t: Masks, t: Steps, rows: Int[Tensor, "B"]) -> Masks:
    """E[x_0 | x_t] where x_0 is uniform over the masks in x_start of the same image.

    The minimiser of the squared error is the same as for x_0, since each of these masks has its own x_t in the batch.
    The loss is lower by the variance of x_0 given x_t, which also reduces the gradient noise.

    Ignored pixels do not change the weights if all masks of an image have background there.

    rows  index of each mask's image
    """
    x, masks = x_t.flatten(1), x_start.flatten(1)
    a = diffusion.at("sqrt_alphas_cumprod", t).flatten(1)
    variance = diffusion.at("sqrt_one_minus_alphas_cumprod", t).flatten(1) ** 2
    # Up to a term that all masks share
    log_likelihood = (a * (x @ masks.T) - a**2 * masks.square().sum(dim=1) / 2) / variance
    weights = log_likelihood.masked_fill(rows[:, None] != rows, -math.inf).softmax(dim=1)
    return (weights @ masks).view_as(x_start)
