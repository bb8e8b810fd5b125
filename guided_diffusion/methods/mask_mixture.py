"""A mixture of several guesses of an image's mask, weighted by their probability given x_t."""

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from ..gaussian_diffusion import DiffusionConfig, Masks, scheduled_betas

# Clamp of each pixel's foreground probability to [MIN_MU, 1 - MIN_MU], so that no single pixel rules out a guess.
# A clamped pixel's logit has no gradient; such pixels learn only through the mixture weights.
MIN_MU = 1e-4

Guesses = Float[Tensor, "B M H W"]  # maps of M guesses


class MaskMixture(nn.Module):
    """Guesses weighted by their posterior probability given x_t.

    An image's mask is modelled as a mixture of M products of Bernoulli distributions with foreground probabilities
    mu_m. By Bayes' rule, with a = sqrt(alpha_bar),

        w_m = softmax_m( rho_m + sum over pixels of log p(x_t | m) ),
        p(x_t | m) = mu_m N(x_t; a, 1 - alpha_bar) + (1 - mu_m) N(x_t; a mask_low, 1 - alpha_bar).

    All pixels of x_t contribute to the weights; a small network would have to learn this pixel by pixel. rho is a map
    of log prior weights, because grey levels indicate how likely a guess is where it differs from the others.

    diffusion  defines the network's timesteps
    mask_low   background value in x_0
    """

    gain: Float[Tensor, "T 1 1 1"]
    middle: Float[Tensor, "T 1 1 1"]

    def __init__(self, diffusion: DiffusionConfig, mask_low: float) -> None:
        super().__init__()
        alpha_bar = np.cumprod(1 - scheduled_betas(diffusion))
        tables = {
            "gain": np.sqrt(alpha_bar) * (1 - mask_low) / (1 - alpha_bar),
            "middle": np.sqrt(alpha_bar) * (1 + mask_low) / 2,
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).float()[:, None, None, None], persistent=False)
        self.steps_per_timestep = diffusion.diffusion_steps / 1000 if diffusion.rescale_timesteps else 1
        self.mask_low = mask_low

    def forward(self, rho: Guesses, logit_mu: Guesses, x: Masks, timesteps: Real[Tensor, "#B"]) -> Masks:
        """sum_m w_m mu_m on the scale of x_0."""
        t = (timesteps * self.steps_per_timestep).round().long()
        llr = self.gain[t] * (x - self.middle[t])  # log-likelihood ratio of foreground to background; 0 at `middle`
        foreground, background = llr.clamp(max=0).exp(), (-llr).clamp(max=0).exp()  # relative to the larger one
        mu = logit_mu.sigmoid().clamp(MIN_MU, 1 - MIN_MU)
        evidence = torch.log(background + mu * (foreground - background)).sum(dim=(2, 3), keepdim=True)
        return self._mean(rho + evidence, mu)

    def before(self, rho: Guesses, logit_mu: Guesses) -> Masks:
        """The mixture's mean from the image alone (x_t carries no information); mu is not clamped."""
        return self._mean(rho, logit_mu.sigmoid())

    def _mean(self, log_weights: Guesses, mu: Guesses) -> Masks:
        p = (log_weights.softmax(dim=1) * mu).sum(dim=1, keepdim=True)
        return self.mask_low + (1 - self.mask_low) * p
