"""The diffusion process on masks: schedules, q(x_t | x_0), its posterior, p(x_{t-1} | x_t), and the hybrid loss.

DDPM: Ho et al., Denoising Diffusion Probabilistic Models (2020). Improved DDPM: Nichol and Dhariwal (2021).
Symbols: x_0 the clean mask, x_t the noisy one, eps the noise, alpha_bar_t the cumulative product of 1 - beta_t,
v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0, and SNR_t = alpha_bar_t / (1 - alpha_bar_t).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from .errors import ConfigError
from .flags.fields import Flag, config
from .losses import discretized_gaussian_log_likelihood, normal_kl
from .nn import mean_flat


@config(group="diffusion")
class DiffusionConfig:
    """The diffusion process and the network's prediction target."""

    diffusion_steps: Annotated[int, Flag("T, number of timesteps of the diffusion process", at_least=1)] = 1000
    noise_schedule: Annotated[
        Literal["linear", "cosine"], Flag("linear: betas from 1e-4 to 2e-2; cosine: squared-cosine alpha_bar")
    ] = "linear"
    timestep_respacing: Annotated[
        str, Flag("timesteps to keep: '250', '10,15,20' (per section), 'ddim50'; empty: all", sampling="free")
    ] = ""
    learn_sigma: Annotated[bool, Flag("the network also predicts the variance (improved DDPM, eq. 15)")] = False
    predict_xstart: Annotated[bool, Flag("the network predicts x_0 instead of eps", twin="prediction")] = False
    prediction: Annotated[
        Literal["eps", "x0", "v"] | None,
        Flag("what the network predicts; auto: set by --predict_xstart", none="auto", twin="predict_xstart"),
    ] = None
    mask_scale: Annotated[float, Flag("scale of the mask in x_t; below 1, noise dominates at smaller t", above=0)] = 1.0
    use_kl: Annotated[bool, Flag("use T * L_vb as the loss instead of the squared error")] = False
    rescale_timesteps: Annotated[bool, Flag("pass t * 1000 / T to the network")] = False
    rescale_learned_sigmas: Annotated[bool, Flag("weight L_vb by T / 1000")] = False

    @property
    def predicts(self) -> str:
        """What the network predicts: "eps", "x0" or "v"."""
        return self.prediction or ("x0" if self.predict_xstart else "eps")


def linear_betas(T: int) -> Float[np.ndarray, "{T}"]:
    """T betas from 1e-4 to 2e-2 for T = 1000, scaled by 1000 / T for other T (DDPM, section 4)."""
    return np.linspace(1e-4 * 1000 / T, 2e-2 * 1000 / T, T, dtype=np.float64)


def cosine_betas(T: int, max_beta: float = 0.999) -> Float[np.ndarray, "{T}"]:
    """T betas of the squared-cosine alpha_bar with offset 0.008 (improved DDPM, eq. 17)."""

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array([min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), max_beta) for i in range(T)])


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


def get_named_beta_schedule(name: str, T: int) -> Float[np.ndarray, "{T}"]:
    """The betas of a named schedule, float64 in (0, 1). ConfigError: unknown name, or T too small for it."""
    if name not in SCHEDULES:
        raise ConfigError(f"--noise_schedule {name} is unknown: choose one of {', '.join(SCHEDULES)}")
    betas = SCHEDULES[name](T)
    if betas.max() >= 1:
        raise ConfigError(
            f"--noise_schedule linear with --diffusion_steps {T}: alpha_bar reaches 0; "
            "use at least 21 steps, or --noise_schedule cosine"
        )
    return betas


def scheduled_betas(config: DiffusionConfig) -> Float[np.ndarray, "{config.diffusion_steps}"]:
    """The betas of a DiffusionConfig, float64 in (0, 1).

    Scaling the mask by b multiplies the SNR of the process by b^2, after x_t is rescaled to unit variance (Chen 2023,
    On the Importance of Noise Scheduling, section 2.2). ConfigError: as get_named_beta_schedule.
    """
    betas = get_named_beta_schedule(config.noise_schedule, config.diffusion_steps)
    if config.mask_scale == 1:
        return betas
    alpha_bar, power = np.cumprod(1 - betas), config.mask_scale**2
    alpha_bar = power * alpha_bar / (power * alpha_bar + 1 - alpha_bar)
    return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


Masks = Float[Tensor, "B K H W"]  # clean or noisy masks, or their noise
Steps = Int[Tensor, "B"]  # timesteps of a GaussianDiffusion, 0 .. S-1
Output = Float[Tensor, "B outputs H W"]  # of the network: the prediction, and the variance if it is learned
Valid = Float[Tensor, "B 1 H W"] | None  # 1, or 0 at ignored pixels of a mask; None: no pixel is ignored
Table = Float[np.ndarray, "S"]  # one constant per timestep of a process
Kept = Sequence[int] | Int[np.ndarray, "S"]  # original timesteps that are kept, ascending


@dataclass(frozen=True)
class Prediction:
    """p(x_{t-1} | x_t) as predicted by the network."""

    x_0: Masks  # the predicted clean mask
    mean: Masks
    log_variance: Masks


def dpm_constants(alpha_bar: Table, alpha_bar_prev: Table) -> tuple[Table, Table]:
    """Constants of DPM-Solver++; h is the increase of the half log-SNR lambda in a step (Lu et al. 2022).

    Returns e^-h, and the weight h / (2 h') of the change in x_0 since the previous step, whose size is h'. The weight
    is 0 for the first step, which has no previous one, and for the last, whose h is infinite.
    """
    decay = np.sqrt(alpha_bar / (1 - alpha_bar) * (1 - alpha_bar_prev) / alpha_bar_prev)
    h = -np.log(decay[1:])
    return decay, np.concatenate([[0.0], h[:-1] / (2 * h[1:]), [0.0]])[: len(decay)]


class GaussianDiffusion:
    """The diffusion process of the given betas, and the interpretation of the network's output.

    betas         in (0, 1), one for each of the S timesteps of this process
    timestep_map  original timestep, as seen in training, of each of the S timesteps; default: 0 .. S-1
    config        the prediction target, and T of the original process

    The constants are float64 arrays [S] with the published names, hence more than 15 attributes.
    A mask has K channels, one per class; all methods take any K.
    """

    def __init__(
        self,
        betas: Float[np.ndarray, "S"],
        timestep_map: Kept | None = None,
        config: DiffusionConfig = DiffusionConfig(),
    ) -> None:
        self.config = config
        self.betas = betas = np.asarray(betas, dtype=np.float64)
        self.num_timesteps = len(betas)
        self.timestep_map = np.arange(len(betas)) if timestep_map is None else np.asarray(timestep_map)

        self.alphas_cumprod = alpha_bar = np.cumprod(1 - betas)
        self.alphas_cumprod_prev = alpha_bar_prev = np.append(1.0, alpha_bar[:-1])

        # q(x_t | x_0) (DDPM, eq. 4), and its inverse
        self.sqrt_alphas_cumprod = np.sqrt(alpha_bar)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - alpha_bar)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / alpha_bar)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / alpha_bar - 1)

        # q(x_{t-1} | x_t, x_0) (DDPM, eq. 6 and 7). Its variance is 0 at t = 0, so the log uses the variance of t = 1,
        # or beta_0 if S = 1.
        self.posterior_variance = betas * (1 - alpha_bar_prev) / (1 - alpha_bar)
        second = 1 if len(betas) > 1 else 0
        floored = np.append(self.posterior_variance[second] or betas[0], self.posterior_variance[1:])
        self.posterior_log_variance_clipped = np.log(floored)
        self.posterior_mean_coef1 = betas * np.sqrt(alpha_bar_prev) / (1 - alpha_bar)
        self.posterior_mean_coef2 = (1 - alpha_bar_prev) * np.sqrt(1 - betas) / (1 - alpha_bar)

        self.dpm_decay, self.dpm_extrapolation = dpm_constants(alpha_bar, alpha_bar_prev)

        # The upper bound of a learned variance, and the fixed variance that is used if none is learned
        self.log_betas = np.log(betas)
        self.fixed_log_variance = np.log(np.append(floored[0], betas[1:]))
        self._tables: dict[torch.device, dict[str, Tensor]] = {}

    def at(self, name: str, t: Steps) -> Float[Tensor, "B 1 1 1"]:
        """The constant `name` at each t, float32, on the device of t."""
        return self._on_device(name, t.device)[t][:, None, None, None]

    def _on_device(self, name: str, device: torch.device) -> Real[Tensor, "S"]:
        if device not in self._tables:  # copy to the device once, not once per step
            arrays = {key: torch.from_numpy(x) for key, x in vars(self).items() if isinstance(x, np.ndarray)}
            tables = {key: x.float() if x.is_floating_point() else x for key, x in arrays.items()}
            self._tables[device] = {key: x.to(device) for key, x in tables.items()}
        return self._tables[device][name]

    def network_timesteps(self, t: Steps) -> Real[Tensor, "B"]:
        """The network's timestep input for t: the original timestep, times 1000 / T with rescale_timesteps."""
        original = self._on_device("timestep_map", t.device)[t]
        return original.float() * (1000 / self.config.diffusion_steps) if self.config.rescale_timesteps else original

    # -- the forward process ------------------------------------------------------------------------------------------

    def q_sample(self, x_start: Masks, t: Steps, noise: Masks) -> Masks:
        """x_t ~ q(x_t | x_0) (DDPM, eq. 4)."""
        return self.at("sqrt_alphas_cumprod", t) * x_start + self.at("sqrt_one_minus_alphas_cumprod", t) * noise

    def q_posterior(self, x_start: Masks, x_t: Masks, t: Steps) -> tuple[Masks, Float[Tensor, "B 1 1 1"]]:
        """Mean and log-variance of q(x_{t-1} | x_t, x_0) (DDPM, eq. 7)."""
        mean = self.at("posterior_mean_coef1", t) * x_start + self.at("posterior_mean_coef2", t) * x_t
        return mean, self.at("posterior_log_variance_clipped", t)

    def predict_xstart_from_eps(self, x_t: Masks, t: Steps, eps: Masks) -> Masks:
        """x_0 from x_t and eps (DDPM, eq. 4)."""
        return self.at("sqrt_recip_alphas_cumprod", t) * x_t - self.at("sqrt_recipm1_alphas_cumprod", t) * eps

    def predict_xstart_from_v(self, x_t: Masks, t: Steps, v: Masks) -> Masks:
        """x_0 from x_t and v (Salimans and Ho 2022, appendix D)."""
        return self.at("sqrt_alphas_cumprod", t) * x_t - self.at("sqrt_one_minus_alphas_cumprod", t) * v

    def v_of(self, x_0: Masks, t: Steps, noise: Masks) -> Masks:
        """The v of a clean mask and its noise."""
        return self.at("sqrt_alphas_cumprod", t) * noise - self.at("sqrt_one_minus_alphas_cumprod", t) * x_0

    def predict_eps_from_xstart(self, x_t: Masks, t: Steps, x_0: Masks) -> Masks:
        """The noise eps from x_t and x_0 (DDPM, eq. 4)."""
        return (self.at("sqrt_recip_alphas_cumprod", t) * x_t - x_0) / self.at("sqrt_recipm1_alphas_cumprod", t)

    # -- the reverse process ------------------------------------------------------------------------------------------

    @property
    def out_channels(self) -> int:
        """Output channels of the network per channel of a mask: the prediction, and the variance if it is learned."""
        return 2 if self.config.learn_sigma else 1

    def predict_xstart(self, output: Output, x_t: Masks, t: Steps) -> Masks:
        """The clean mask predicted by the network's raw output, unclipped."""
        prediction = output[:, : x_t.shape[1]]
        if self.config.predicts == "x0":
            return prediction
        invert = self.predict_xstart_from_v if self.config.predicts == "v" else self.predict_xstart_from_eps
        return invert(x_t, t, prediction)

    def p_mean_variance(self, output: Output, x_t: Masks, t: Steps, clip_denoised: bool = True) -> Prediction:
        """The Gaussian p(x_{t-1} | x_t) given the network's raw output.

        output         K `out_channels` channels; the last K are v in [-1, 1], which interpolates the log-variance
                       between that of the posterior and log beta_t (improved DDPM, eq. 15)
        clip_denoised  clip the predicted x_0 to [-1, 1]
        """
        given, needed = output.shape[1], x_t.shape[1] * self.out_channels
        if given != needed:
            raise ConfigError(
                f"the network has {given} output channels, but --learn_sigma {self.config.learn_sigma} needs {needed}"
            )
        x_0 = self.predict_xstart(output, x_t, t)
        x_0 = x_0.clamp(-1, 1) if clip_denoised else x_0
        mean, posterior_log_variance = self.q_posterior(x_0, x_t, t)
        if self.config.learn_sigma:
            share = (output[:, x_t.shape[1] :] + 1) / 2
            log_variance = share * self.at("log_betas", t) + (1 - share) * posterior_log_variance
        else:
            log_variance = self.at("fixed_log_variance", t).expand_as(mean)
        return Prediction(x_0, mean, log_variance)

    # -- the loss -----------------------------------------------------------------------------------------------------

    def vb_term(self, output: Output, x_start: Masks, x_t: Masks, t: Steps, valid: Valid = None) -> Float[Tensor, "B"]:
        """L_vb of one step, in bits per dimension (improved DDPM, eq. 4 to 6).

        KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and the negative log-likelihood of x_0 for t = 0.

        valid  as in `hybrid_loss`
        """
        true_mean, true_log_variance = self.q_posterior(x_start, x_t, t)
        p = self.p_mean_variance(output, x_t, t, clip_denoised=False)
        kl = mean_flat(normal_kl(true_mean, true_log_variance, p.mean, p.log_variance), valid)
        nll = -mean_flat(discretized_gaussian_log_likelihood(x_start, p.mean, 0.5 * p.log_variance), valid)
        return torch.where(t == 0, nll, kl) / math.log(2)

    def hybrid_loss(
        self,
        output: Output,
        x_start: Masks,
        x_t: Masks,
        t: Steps,
        noise: Masks,
        target: Masks | None = None,
        *,
        valid: Valid = None,
    ) -> dict[str, Float[Tensor, "B"]]:
        """The terms of the diffusion loss (improved DDPM, eq. 16).

        mse   squared error of the prediction (absent with use_kl)
        vb    L_vb; in combination with the MSE, its gradient reaches only the variance, not the mean
        loss  the loss to minimise: mse + vb, or T * vb with use_kl

        target  the clean mask that the MSE regresses to; None: x_start
        valid   0 at pixels that do not count; None: all count
        """
        if self.config.use_kl:
            vb = self.vb_term(output, x_start, x_t, t, valid)
            return {"vb": vb, "loss": self.num_timesteps * vb}

        K = x_t.shape[1]
        x_0, eps = (x_start, noise) if target is None else (target, self.predict_eps_from_xstart(x_t, t, target))
        targets = {"x0": lambda: x_0, "eps": lambda: eps, "v": lambda: self.v_of(x_0, t, eps)}
        mse = mean_flat((targets[self.config.predicts]() - output[:, :K]) ** 2, valid)
        if not self.config.learn_sigma:
            return {"mse": mse, "loss": mse}
        frozen = torch.cat([output[:, :K].detach(), output[:, K:]], dim=1)
        weight = self.num_timesteps / 1000 if self.config.rescale_learned_sigmas else 1.0
        vb = weight * self.vb_term(frozen, x_start, x_t, t, valid)
        return {"mse": mse, "vb": vb, "loss": mse + vb}
