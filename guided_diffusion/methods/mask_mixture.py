"""An image's mask as one of several guesses, weighed by how likely each gave x_t."""

import numpy as np
import torch
from torch import nn

from ..gaussian_diffusion import scheduled_betas

# The least probability of a pixel's levels in a guess of several, so that no pixel alone rules one out. Beyond it a pixel's logit has
# no gradient: what is that certain learns from its neighbours' share in the weights alone.
MIN_MU = 1e-4


class MaskMixture(nn.Module):
    """Guesses weighed by how likely each made x_t: an image's mask is taken for one of M, whose pixels are foreground with the
    probabilities mu_m, each pixel by itself (a mixture of products of Bernoulli distributions). Then, by Bayes,

        w_m = softmax_m( rho_m + sum over pixels of log p(x_t | m) ),
        p(x_t | m) = mu_m N(x_t; sqrt(alpha_bar), 1 - alpha_bar) + (1 - mu_m) N(x_t; sqrt(alpha_bar) mask_low, 1 - alpha_bar).

    All of x_t decides between the guesses, which a small network, pixel after pixel, would have to learn. rho is a map: pixel by
    pixel, for a grey level tells how likely a guess is there where it differs from the others.

    diffusion  DiffusionConfig; its timesteps are the network's
    mask_low   value of the background in x_0
    """

    def __init__(self, diffusion, mask_low):
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

    def forward(self, rho, logit_mu, x, timesteps):
        """sum_m w_m mu_m on the scale of x_0, [B, 1, H, W]; rho, logit_mu [B, M, H, W], x [B, 1, H, W], timesteps [B] or [1]."""
        t = (timesteps * self.steps_per_timestep).round().long()
        llr = self.gain[t] * (x - self.middle[t])  # of foreground against background; at `middle` both are as likely
        foreground, background = (
            llr.clamp(max=0).exp(),
            (-llr).clamp(max=0).exp(),
        )  # likelihoods over the larger of both
        mu = logit_mu.sigmoid().clamp(MIN_MU, 1 - MIN_MU)
        evidence = torch.log(background + mu * (foreground - background)).sum(dim=(2, 3), keepdim=True)
        return self._mean(rho + evidence, mu)

    def before(self, rho, logit_mu):
        """The same for an x_t that tells nothing, mu being as it is: what the image alone says, [B, 1, H, W]."""
        return self._mean(rho, logit_mu.sigmoid())

    def _mean(self, log_weights, mu):
        p = (log_weights.softmax(dim=1) * mu).sum(dim=1, keepdim=True)
        return self.mask_low + (1 - self.mask_low) * p
