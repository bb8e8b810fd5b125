"""
Samplers: one step function each, and ONE loop.

A step takes (diffusion, prediction, x_t, t, noise, eta) and gives x_{t-1}. `prediction` is the Gaussian that the
network's output stands for (GaussianDiffusion.p_mean_variance), so a step knows nothing of eps, x_0 or variances.
"""

import torch

from .nn import ConfigError


def ddpm_step(diffusion, prediction, x_t, t, noise, eta):
    """Ancestral sampling (DDPM, algorithm 2). No noise at t = 0; eta is not used."""
    nonzero = (t > 0).to(x_t.dtype)[:, None, None, None]
    return prediction.mean + nonzero * torch.exp(0.5 * prediction.log_variance) * noise


def ddim_step(diffusion, prediction, x_t, t, noise, eta):
    """DDIM (Song et al. 2021, eq. 12): eta 0 is deterministic, eta 1 has the noise of DDPM with posterior variance."""
    alpha_bar, alpha_bar_prev = diffusion.at("alphas_cumprod", t), diffusion.at("alphas_cumprod_prev", t)
    eps = diffusion.predict_eps_from_xstart(x_t, t, prediction.x_0)
    sigma = eta * torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * torch.sqrt(1 - alpha_bar / alpha_bar_prev)
    mean = alpha_bar_prev.sqrt() * prediction.x_0 + (1 - alpha_bar_prev - sigma**2).sqrt() * eps
    nonzero = (t > 0).to(x_t.dtype)[:, None, None, None]
    return mean + nonzero * sigma * noise


SAMPLERS = {"ddpm": ddpm_step, "ddim": ddim_step}


@torch.inference_mode()
def sample_loop(denoise, diffusion, x_T, sampler="ddpm", eta=0.0, noise_fn=None, *, clip_denoised=True):
    """
    Run the reverse chain, yielding (t, x_{t-1}, predicted x_0) after each step, from the largest t to 0.

    denoise        (x [B, 1, H, W], timesteps [B] as the network receives them) -> raw output [B, out_channels, H, W]
    x_T            [B, 1, H, W], standard normal
    noise_fn       (k, x) -> standard normal noise like x for the k-th step taken, k = 0 at the largest t; by default
                   from torch's global generator
    clip_denoised  clip each predicted x_0 to [-1, 1]
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler {sampler} is unknown: choose one of {', '.join(SAMPLERS)}")
    step, x = SAMPLERS[sampler], x_T
    for k, index in enumerate(reversed(range(diffusion.num_timesteps))):
        t = torch.full((len(x),), index, device=x.device)
        output = denoise(x, diffusion.network_timesteps(t))
        prediction = diffusion.p_mean_variance(output, x, t, clip_denoised)
        noise = torch.randn_like(x) if noise_fn is None else noise_fn(k, x)
        x = step(diffusion, prediction, x, t, noise, eta)
        yield index, x, prediction.x_0


def sample(denoise, diffusion, x_T, sampler="ddpm", eta=0.0, noise_fn=None, *, clip_denoised=True):
    """The end of `sample_loop`: x_0 [B, 1, H, W]. The arguments are the loop's."""
    for _, x, _ in sample_loop(denoise, diffusion, x_T, sampler, eta, noise_fn, clip_denoised=clip_denoised):
        pass
    return x
