"""Likelihood terms, in nats: of elements under Gaussians, and of the classes of a pixel."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .flags.classes import Classes

HALF_BIN = 1 / 255  # half the width of a grey level, for data in [-1, 1]
MIN_PROBABILITY = 1e-12  # keeps the logarithms finite


def normal_kl(
    mean1: Float[Tensor, "*#S"],
    logvar1: Float[Tensor, "*#S"],
    mean2: Float[Tensor, "*#S"],
    logvar2: Float[Tensor, "*#S"],
) -> Float[Tensor, "*#S"]:
    """KL(N(mean1, exp logvar1) || N(mean2, exp logvar2)) for each element."""
    return 0.5 * (logvar2 - logvar1 - 1 + torch.exp(logvar1 - logvar2) + (mean1 - mean2) ** 2 * torch.exp(-logvar2))


def approx_standard_normal_cdf(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Approximate the standard normal CDF with a tanh, to within 2e-4."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_log_likelihood(
    x: Float[Tensor, "*#S"], means: Float[Tensor, "*#S"], log_scales: Float[Tensor, "*#S"]
) -> Float[Tensor, "*#S"]:
    """Log probability of the bin [x - 1/255, x + 1/255] under N(means, exp(log_scales)^2) (DDPM, eq. 13).

    x  values in [-1, 1]; the bins at -1 and 1 extend to minus and plus infinity
    """
    inverse_scale = torch.exp(-log_scales)
    cdf_upper = approx_standard_normal_cdf(inverse_scale * (x - means + HALF_BIN))
    cdf_lower = approx_standard_normal_cdf(inverse_scale * (x - means - HALF_BIN))
    probability = torch.where(x < -0.999, cdf_upper, torch.where(x > 0.999, 1 - cdf_lower, cdf_upper - cdf_lower))
    return probability.clamp(min=MIN_PROBABILITY).log()


# -- classes ----------------------------------------------------------------------------------------------------------


def is_categorical(classes: Classes) -> bool:
    """Whether a pixel has a categorical distribution over background and K classes; else one Bernoulli per class."""
    return classes.several and classes.exclusive


def with_background(logits: Float[Tensor, "*B K H W"]) -> Float[Tensor, "*B K+1 H W"]:
    """The logits of background and K exclusive classes; that of the background is 0."""
    return F.pad(logits, (0, 0, 0, 0, 1, 0))


def class_probabilities(logits: Float[Tensor, "*B K H W"], classes: Classes) -> Float[Tensor, "*B K H W"]:
    """The probability of each class at each pixel: a softmax with background for exclusive classes, else sigmoids."""
    if is_categorical(classes):
        return with_background(logits).softmax(dim=-3)[..., 1:, :, :]
    return torch.sigmoid(logits)


def class_cross_entropy(
    logits: Float[Tensor, "*B K H W"], masks: Float[Tensor, "*B K H W"], classes: Classes
) -> Float[Tensor, "*B 1 H W"]:
    """The negative log-likelihood of the classes of each pixel.

    Categorical for exclusive classes; otherwise binary, and summed over the classes.

    masks  0 or 1
    """
    if is_categorical(classes):
        return with_background(logits).logsumexp(dim=-3, keepdim=True) - (masks * logits).sum(dim=-3, keepdim=True)
    entropies = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return entropies.sum(dim=-3, keepdim=True) if classes.several else entropies
