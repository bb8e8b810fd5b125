"""Samplers: one step function per sampler, and a common loop.

A step maps (diffusion, state, noise, eta) to x_{t-1}. `state` holds the Gaussian computed from the network's output
(GaussianDiffusion.p_mean_variance), so steps do not depend on the network's parameterisation. `noise` is standard
normal with the shape of x_t, or 0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from ..errors import ConfigError
from ..flags.fields import Flag, config
from ..flags.words import SYMMETRIES, parts_of
from ..gaussian_diffusion import GaussianDiffusion, Masks, Prediction, Steps
from ..nn import Denoise

NoiseFn = Callable[[int, Masks], Masks]


@config(resume="free", group="sampler")
class SamplerConfig:
    """How masks are sampled along the chain."""

    sampler: Annotated[
        Literal["ddpm", "ddim", "dpm++"], Flag("DDPM (ancestral), DDIM, or second-order DPM-Solver++")
    ] = "ddpm"
    steps: Annotated[
        int | None,
        Flag("network calls per mask, at most --diffusion_steps; all: every timestep", none="all", at_least=1),
    ] = None
    spacing: Annotated[
        Literal["linear", "quadratic", "logsnr"], Flag("spacing of --steps: uniform in t, in sqrt(t), in log-SNR")
    ] = "linear"
    eta: Annotated[float, Flag("noise of ddim and dpm++, from 0 (none) to 1", at_least=0, at_most=1)] = 0.0
    clip_denoised: Annotated[bool, Flag("clip each predicted x_0 to [-1, 1]")] = True
    tta: Annotated[
        str,
        Flag(
            "test-time augmentation: average each prediction over symmetries, any of mirror, flip, rotate, joined by "
            "+; or none",
            check=parts_of(SYMMETRIES),
        ),
    ] = "none"


@dataclass(frozen=True)
class ChainState:
    """The state of a chain before a step."""

    x_t: Masks
    t: Steps
    prediction: Prediction
    before: Masks | None  # x_0 predicted in the previous step; None in the first


def ddpm_step(diffusion: GaussianDiffusion, state: ChainState, noise: Masks | float, eta: float) -> Masks:
    """Ancestral sampling (DDPM, algorithm 2). The noise has the predicted variance; eta is ignored."""
    return state.prediction.mean + torch.exp(0.5 * state.prediction.log_variance) * noise


def ddim_step(diffusion: GaussianDiffusion, state: ChainState, noise: Masks | float, eta: float) -> Masks:
    """DDIM (Song et al. 2021, eq. 12): eta 0 is deterministic, eta 1 has the noise of DDPM with posterior variance."""
    x_t, t, x_0 = state.x_t, state.t, state.prediction.x_0
    alpha_bar, alpha_bar_prev = diffusion.at("alphas_cumprod", t), diffusion.at("alphas_cumprod_prev", t)
    eps = diffusion.predict_eps_from_xstart(x_t, t, x_0)
    sigma = eta * torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar) * diffusion.at("betas", t))
    # In float32 the difference may be slightly negative if alpha_bar is close to 0.
    rest = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()
    return alpha_bar_prev.sqrt() * x_0 + rest * eps + sigma * noise


def dpm_step(diffusion: GaussianDiffusion, state: ChainState, noise: Masks | float, eta: float) -> Masks:
    """Second-order DPM-Solver++, multistep midpoint.

    eta 0 solves the ODE (Lu et al. 2022, algorithm 2), eta 1 the SDE (appendix A); values between them scale the SDE's
    noise in log-SNR.
    """
    x_t, t, x_0 = state.x_t, state.t, state.prediction.x_0
    alpha_bar, alpha_bar_prev = diffusion.at("alphas_cumprod", t), diffusion.at("alphas_cumprod_prev", t)
    decay = diffusion.at("dpm_decay", t)  # e^-h
    damping = decay**eta  # 1 for the ODE
    if state.before is not None:
        x_0 = x_0 + diffusion.at("dpm_extrapolation", t) * (x_0 - state.before)
    kept = torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * damping
    mean = kept * x_t + alpha_bar_prev.sqrt() * (1 - decay * damping) * x_0
    return mean + torch.sqrt((1 - alpha_bar_prev) * (1 - damping**2)) * noise


SAMPLERS = {"ddpm": ddpm_step, "ddim": ddim_step, "dpm++": dpm_step}


def sample_loop(
    denoise: Denoise,
    diffusion: GaussianDiffusion,
    x_T: Masks,
    sampler: str = "ddpm",
    eta: float = 0.0,
    noise_fn: NoiseFn | None = None,
    *,
    clip_denoised: bool = True,
) -> Iterator[tuple[int, Masks, Masks]]:
    """Run the reverse chain from the largest t to 0; yields (t, x_{t-1}, predicted x_0) after each step.

    denoise        (x, network timesteps) -> raw output; every step runs in inference mode
    x_T            standard normal
    noise_fn       (k, x) -> standard normal noise like x for the k-th step; k = 0 is the largest t. Default: torch's
                   global generator. Not called for steps without noise: at t = 0, and with eta 0
    clip_denoised  clip each predicted x_0 to [-1, 1]
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler {sampler} is unknown: choose one of {', '.join(SAMPLERS)}")
    step, x, before = SAMPLERS[sampler], x_T, None
    noisy = sampler == "ddpm" or eta > 0
    for k, index in enumerate(reversed(range(diffusion.num_timesteps))):
        with torch.inference_mode():
            t = torch.full((len(x),), index, device=x.device)
            output = denoise(x, diffusion.network_timesteps(t))
            prediction = diffusion.p_mean_variance(output, x, t, clip_denoised)
            noise: Masks | float = 0.0
            if noisy and index > 0:
                noise = torch.randn_like(x) if noise_fn is None else noise_fn(k, x)
            x = step(diffusion, ChainState(x, t, prediction, before), noise, eta)
        before = prediction.x_0
        yield index, x, prediction.x_0


def sample(
    denoise: Denoise,
    diffusion: GaussianDiffusion,
    x_T: Masks,
    sampler: str = "ddpm",
    eta: float = 0.0,
    noise_fn: NoiseFn | None = None,
    *,
    clip_denoised: bool = True,
) -> Masks:
    """Run `sample_loop` to its end and return x_0. Same arguments."""
    x_0 = x_T
    for _, x_0, _ in sample_loop(denoise, diffusion, x_T, sampler, eta, noise_fn, clip_denoised=clip_denoised):  # noqa: B007
        pass
    return x_0
