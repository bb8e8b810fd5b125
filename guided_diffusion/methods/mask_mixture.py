"""An image's mask as one of several guesses, weighed by how likely each gave x_t."""

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from ..gaussian_diffusion import DiffusionConfig, Masks, scheduled_betas

# The least probability of a pixel's levels in a guess of several, so that no pixel alone rules one out. Beyond it a
# pixel's logit has no gradient: what is that certain learns from its neighbours' share in the weights alone.
MIN_MU = 1e-4

Guesses = Float[Tensor, "B M H W"]  # maps of M guesses


class MaskMixture(nn.Module):
    """Guesses weighed by how likely each made x_t.

    An image's mask is taken for one of M, whose pixels are foreground with the probabilities mu_m, independently of
    each other (a mixture of products of Bernoulli distributions). Then, by Bayes, with a = sqrt(alpha_bar),

        w_m = softmax_m( rho_m + sum over pixels of log p(x_t | m) ),
        p(x_t | m) = mu_m N(x_t; a, 1 - alpha_bar) + (1 - mu_m) N(x_t; a mask_low, 1 - alpha_bar).

    All of x_t decides between the guesses, which a small network, pixel after pixel, would have to learn. rho is a map:
    a grey level shows how likely a guess is where it differs from the others.

    diffusion  its timesteps are the network's
    mask_low   value of the background in x_0
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
        llr = self.gain[t] * (x - self.middle[t])  # of foreground against background; at `middle` both are as likely
        foreground, background = llr.clamp(max=0).exp(), (-llr).clamp(max=0).exp()  # likelihoods over the larger one
        mu = logit_mu.sigmoid().clamp(MIN_MU, 1 - MIN_MU)
        evidence = torch.log(background + mu * (foreground - background)).sum(dim=(2, 3), keepdim=True)
        return self._mean(rho + evidence, mu)

    def before(self, rho: Guesses, logit_mu: Guesses) -> Masks:
        """The same for an x_t without information, mu not clamped: what follows from the image alone."""
        return self._mean(rho, logit_mu.sigmoid())

    def _mean(self, log_weights: Guesses, mu: Guesses) -> Masks:
        p = (log_weights.softmax(dim=1) * mu).sum(dim=1, keepdim=True)
        return self.mask_low + (1 - self.mask_low) * p
