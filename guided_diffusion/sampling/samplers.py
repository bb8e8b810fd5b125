"""Samplers: one step function each, and ONE loop.

A step takes (diffusion, prediction, x_t, t, noise, eta, before) and gives x_{t-1}. `prediction` is the Gaussian that the
network's output stands for (GaussianDiffusion.p_mean_variance), so a step knows nothing of eps, x_0 or variances; `before`
is the x_0 predicted at the step before, None at the first; `noise` is standard normal like x_t, or 0 for none.
"""

from typing import Annotated, Literal

import torch

from ..errors import ConfigError
from ..flags.fields import Flag, config
from ..flags.words import SYMMETRIES, parts_of


@config(resume="free", group="sampler")
class SamplerConfig:
    """How a mask is drawn along the chain."""

    sampler: Annotated[
        Literal["ddpm", "ddim", "dpm++"], Flag("DDPM (ancestral), DDIM, or DPM-Solver++ of second order")
    ] = "ddpm"
    steps: Annotated[
        int | None,
        Flag("network calls per mask, at most --diffusion_steps; all: every timestep", none="all", at_least=1),
    ] = None
    spacing: Annotated[
        Literal["linear", "quadratic", "logsnr"], Flag("how --steps are spaced: evenly in t, in sqrt(t), in log-SNR")
    ] = "linear"
    eta: Annotated[float, Flag("noise of ddim and dpm++, from 0 (none) to 1", at_least=0, at_most=1)] = 0.0
    clip_denoised: Annotated[bool, Flag("clip every predicted x_0 to [-1, 1]")] = True
    tta: Annotated[
        str,
        Flag(
            "test-time augmentation: average each prediction over the image's symmetries: parts joined by +, of mirror, "
            "flip, rotate; or none",
            check=parts_of(SYMMETRIES),
        ),
    ] = "none"


def ddpm_step(diffusion, prediction, x_t, t, noise, eta, before):
    """Ancestral sampling (DDPM, algorithm 2). Its noise has the variance of `prediction`, whatever eta."""
    return prediction.mean + torch.exp(0.5 * prediction.log_variance) * noise


def ddim_step(diffusion, prediction, x_t, t, noise, eta, before):
    """DDIM (Song et al. 2021, eq. 12): eta 0 is deterministic, eta 1 has the noise of DDPM with posterior variance."""
    alpha_bar, alpha_bar_prev = diffusion.at("alphas_cumprod", t), diffusion.at("alphas_cumprod_prev", t)
    eps = diffusion.predict_eps_from_xstart(x_t, t, prediction.x_0)
    sigma = eta * torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * torch.sqrt(1 - alpha_bar / alpha_bar_prev)
    rest = (
        (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()
    )  # float32 may fall below 0, where alpha_bar is about that
    return alpha_bar_prev.sqrt() * prediction.x_0 + rest * eps + sigma * noise


def dpm_step(diffusion, prediction, x_t, t, noise, eta, before):
    """DPM-Solver++ of second order, multistep by midpoint: eta 0 is the ODE (Lu et al. 2022, algorithm 2), eta 1 the SDE
    (appendix A), and between them the SDE whose noise is scaled by eta in log-SNR.
    """
    alpha_bar, alpha_bar_prev = diffusion.at("alphas_cumprod", t), diffusion.at("alphas_cumprod_prev", t)
    decay = diffusion.at("dpm_decay", t)  # e^-h
    damping = decay**eta  # 1 for the ODE
    x_0 = prediction.x_0
    if before is not None:
        x_0 = x_0 + diffusion.at("dpm_extrapolation", t) * (x_0 - before)
    mean = (
        torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * damping * x_t
        + alpha_bar_prev.sqrt() * (1 - decay * damping) * x_0
    )
    return mean + torch.sqrt((1 - alpha_bar_prev) * (1 - damping**2)) * noise


SAMPLERS = {"ddpm": ddpm_step, "ddim": ddim_step, "dpm++": dpm_step}


@torch.inference_mode()
def sample_loop(denoise, diffusion, x_T, sampler="ddpm", eta=0.0, noise_fn=None, *, clip_denoised=True):
    """Run the reverse chain, yielding (t, x_{t-1}, predicted x_0) after each step, from the largest t to 0.

    denoise        (x [B, 1, H, W], timesteps [B] as the network receives them) -> raw output [B, out_channels, H, W]
    x_T            [B, 1, H, W], standard normal
    noise_fn       (k, x) -> standard normal noise like x for the k-th step taken, k = 0 at the largest t; by default
                   from torch's global generator. Not called where there is no noise: at t = 0, and with eta 0.
    clip_denoised  clip each predicted x_0 to [-1, 1]
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler {sampler} is unknown: choose one of {', '.join(SAMPLERS)}")
    step, x, before = SAMPLERS[sampler], x_T, None
    noisy = sampler == "ddpm" or eta > 0
    for k, index in enumerate(reversed(range(diffusion.num_timesteps))):
        t = torch.full((len(x),), index, device=x.device)
        output = denoise(x, diffusion.network_timesteps(t))
        prediction = diffusion.p_mean_variance(output, x, t, clip_denoised)
        noise = 0.0
        if noisy and index > 0:
            noise = torch.randn_like(x) if noise_fn is None else noise_fn(k, x)
        x = step(diffusion, prediction, x, t, noise, eta, before)
        before = prediction.x_0
        yield index, x, prediction.x_0


def sample(denoise, diffusion, x_T, sampler="ddpm", eta=0.0, noise_fn=None, *, clip_denoised=True):
    """The end of `sample_loop`: x_0 [B, 1, H, W]. The arguments are the loop's."""
    x_0 = x_T
    for _, x_0, _ in sample_loop(denoise, diffusion, x_T, sampler, eta, noise_fn, clip_denoised=clip_denoised):  # noqa: B007
        pass
    return x_0
