"""A mixture of several guesses of an image's mask, weighted by their probability given x_t."""

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from ..flags.classes import Classes
from ..gaussian_diffusion import DiffusionConfig, Masks, Valid, scheduled_betas
from ..losses import class_probabilities, is_categorical

# The least probability of each value of a pixel, so that no single pixel rules out a guess. Bernoulli probabilities are
# clamped to [MIN_MU, 1 - MIN_MU]: a clamped pixel's logit has no gradient, and learns only through the mixture weights.
# Those of exclusive classes are mixed with a uniform distribution, which keeps their sum.
MIN_MU = 1e-4

Guesses = Float[Tensor, "B M H W"]  # maps of M guesses
GuessLogits = Float[Tensor, "B maps H W"]  # M K maps; those of a guess are adjacent, one per class
Probabilities = Float[Tensor, "B M K H W"]  # of each guess: the probability of each class at each pixel


class MaskMixture(nn.Module):
    """Guesses weighted by their posterior probability given x_t.

    An image's mask is modelled as a mixture of M products of Bernoulli distributions with foreground probabilities
    mu_m. By Bayes' rule, with a = sqrt(alpha_bar),

        w_m = softmax_m( rho_m + sum over pixels of log p(x_t | m) ),
        p(x_t | m) = mu_m N(x_t; a, 1 - alpha_bar) + (1 - mu_m) N(x_t; a mask_low, 1 - alpha_bar).

    Regions have a Bernoulli distribution for each class, and log p is summed over the classes. A pixel of K exclusive
    classes has a categorical distribution over K + 1 values: e_c, which is 1 in channel c, mask_low in the others, and
    in all of them for the background c = 0,

        p(x_t | m) = sum_c mu_mc N(x_t; a e_c, 1 - alpha_bar).

    All pixels of x_t contribute to the weights; a small network would have to learn this pixel by pixel. rho is a map
    of log prior weights, because grey levels indicate how likely a guess is where it differs from the others.

    diffusion  defines the network's timesteps
    mask_low   background value in x_0
    classes    default: one class
    """

    gain: Float[Tensor, "T 1 1 1"]
    middle: Float[Tensor, "T 1 1 1"]

    def __init__(self, diffusion: DiffusionConfig, mask_low: float, classes: Classes = Classes()) -> None:
        super().__init__()
        alpha_bar = np.cumprod(1 - scheduled_betas(diffusion))
        tables = {
            "gain": np.sqrt(alpha_bar) * (1 - mask_low) / (1 - alpha_bar),
            "middle": np.sqrt(alpha_bar) * (1 + mask_low) / 2,
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).float()[:, None, None, None], persistent=False)
        self.steps_per_timestep = diffusion.diffusion_steps / 1000 if diffusion.rescale_timesteps else 1
        self.mask_low, self.classes = mask_low, classes

    def forward(
        self, rho: Guesses, mu: Probabilities, x: Masks, timesteps: Real[Tensor, "#B"], valid: Valid = None
    ) -> Masks:
        """sum_m w_m mu_m on the scale of x_0; pixels where `valid` is 0 do not contribute to the weights.

        mu  from `bounded`
        """
        t = (timesteps * self.steps_per_timestep).round().long()
        # Log-likelihood ratio of each class to the background; 0 at `middle`
        llr = (self.gain[t] * (x - self.middle[t]))[:, None]  # [B, 1, K, H, W]
        if is_categorical(self.classes):
            largest = llr.amax(dim=2, keepdim=True).clamp(min=0)
            foreground, background = (llr - largest).exp(), (-largest).exp()  # relative to the largest one
            likelihood = background + (mu * (foreground - background)).sum(dim=2, keepdim=True)
        else:
            foreground, background = llr.clamp(max=0).exp(), (-llr).clamp(max=0).exp()  # relative to the larger one
            likelihood = torch.addcmul(background, mu, foreground - background)
        evidence = torch.log(likelihood) if valid is None else torch.log(likelihood) * valid[:, None]
        return self._mean(rho + evidence.sum(dim=(2, 3, 4))[:, :, None, None], mu)

    def before(self, rho: Guesses, logit_mu: GuessLogits) -> Masks:
        """The mixture's mean from the image alone (x_t carries no information); mu has no least value."""
        return self._mean(rho, self._probabilities(logit_mu))

    def bounded(self, logit_mu: GuessLogits) -> Probabilities:
        """The guesses' mu, at least MIN_MU for each value of a pixel; it depends on the image alone."""
        mu = self._probabilities(logit_mu)
        if is_categorical(self.classes):
            return MIN_MU + (1 - (self.classes.count + 1) * MIN_MU) * mu
        return mu.clamp(MIN_MU, 1 - MIN_MU)

    def _probabilities(self, logit_mu: GuessLogits) -> Probabilities:
        return class_probabilities(logit_mu.unflatten(1, (-1, self.classes.count)), self.classes)

    def _mean(self, log_weights: Guesses, mu: Probabilities) -> Masks:
        p = (log_weights.softmax(dim=1)[:, :, None] * mu).sum(dim=1)
        return self.mask_low + (1 - self.mask_low) * p
