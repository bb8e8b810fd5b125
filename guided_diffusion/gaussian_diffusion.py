"""The diffusion process on masks: schedules, q(x_t | x_0), its posterior, p(x_{t-1} | x_t), and the hybrid loss.

DDPM: Ho et al., Denoising Diffusion Probabilistic Models (2020). Improved DDPM: Nichol and Dhariwal (2021).
Symbols: x_0 the clean mask, x_t the noisy one, eps the noise, alpha_bar_t the cumulative product of 1 - beta_t,
v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0, and SNR_t = alpha_bar_t / (1 - alpha_bar_t).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from .errors import ConfigError
from .flags.fields import Flag, config
from .losses import discretized_gaussian_log_likelihood, normal_kl
from .nn import mean_flat


@config(group="diffusion")
class DiffusionConfig:
    """The diffusion process, and what the network predicts of it."""

    diffusion_steps: Annotated[int, Flag("T, the length of the noising process", at_least=1)] = 1000
    noise_schedule: Annotated[
        Literal["linear", "cosine"], Flag("betas from 1e-4 to 2e-2, or a squared cosine alpha_bar")
    ] = "linear"
    timestep_respacing: Annotated[
        str, Flag("timesteps to keep: '250', '10,15,20' (per section), 'ddim50'; empty: all", sampling="free")
    ] = ""
    learn_sigma: Annotated[bool, Flag("the network predicts the variance too (improved DDPM, eq. 15)")] = False
    predict_xstart: Annotated[bool, Flag("the network predicts x_0 instead of eps", twin="prediction")] = False
    prediction: Annotated[
        Literal["eps", "x0", "v"] | None,
        Flag("what the network predicts; auto: what --predict_xstart says", none="auto", twin="predict_xstart"),
    ] = None
    mask_scale: Annotated[
        float, Flag("factor of the mask in x_t: below 1, the noise covers it at smaller t", above=0)
    ] = 1.0
    use_kl: Annotated[bool, Flag("the loss is T * L_vb in place of the squared error")] = False
    rescale_timesteps: Annotated[bool, Flag("the network sees t * 1000 / T")] = False
    rescale_learned_sigmas: Annotated[bool, Flag("weight L_vb by T / 1000")] = False

    @property
    def predicts(self) -> str:
        """What the network predicts: "eps", "x0" or "v"."""
        return self.prediction or ("x0" if self.predict_xstart else "eps")


def linear_betas(T):
    """T betas from 1e-4 to 2e-2 at T = 1000, scaled by 1000 / T otherwise (DDPM, section 4)."""
    return np.linspace(1e-4 * 1000 / T, 2e-2 * 1000 / T, T, dtype=np.float64)


def cosine_betas(T, max_beta=0.999):
    """T betas of the squared-cosine alpha_bar with offset 0.008 (improved DDPM, eq. 17)."""

    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array([min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), max_beta) for i in range(T)])


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


def get_named_beta_schedule(name, T):
    """The betas [T] of a named schedule, float64 in (0, 1). ConfigError: unknown name, or T too small for it."""
    if name not in SCHEDULES:
        raise ConfigError(f"--noise_schedule {name} is unknown: choose one of {', '.join(SCHEDULES)}")
    betas = SCHEDULES[name](T)
    if betas.max() >= 1:
        raise ConfigError(
            f"--noise_schedule linear with --diffusion_steps {T}: alpha_bar reaches 0; "
            "use at least 21 steps, or --noise_schedule cosine"
        )
    return betas


def scheduled_betas(config):
    """The betas [T] of a DiffusionConfig, float64 in (0, 1).

    A mask times b among unit noise, with both scaled back to unit variance, is the process whose SNR is b^2 times as large
    (Chen 2023, On the Importance of Noise Scheduling, section 2.2). ConfigError: as get_named_beta_schedule.
    """
    betas = get_named_beta_schedule(config.noise_schedule, config.diffusion_steps)
    if config.mask_scale == 1:
        return betas
    alpha_bar, power = np.cumprod(1 - betas), config.mask_scale**2
    alpha_bar = power * alpha_bar / (power * alpha_bar + 1 - alpha_bar)
    return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


@dataclass(frozen=True)
class Prediction:
    """p(x_{t-1} | x_t) as the network sees it; every field [B, 1, H, W]."""

    x_0: torch.Tensor  # the clean mask that the network predicts
    mean: torch.Tensor
    log_variance: torch.Tensor


class GaussianDiffusion:
    """The process of the given betas, and how the network's output is read.

    betas         [S] float64 in (0, 1), for the S timesteps that this process has
    timestep_map  the original timestep of each of the S, which is what the network was trained on; default 0 .. S-1
    config        the original process has config.diffusion_steps timesteps; config says what the network predicts

    The constants are float64 arrays [S] under the published names. Everywhere below, t [B] counts this process's
    own timesteps, 0 .. S-1.
    """

    def __init__(self, betas, timestep_map=None, config=DiffusionConfig()):
        self.config = config
        self.betas = betas = np.asarray(betas, dtype=np.float64)
        self.num_timesteps = len(betas)
        self.timestep_map = np.arange(len(betas)) if timestep_map is None else np.asarray(timestep_map)

        self.alphas_cumprod = alpha_bar = np.cumprod(1 - betas)
        self.alphas_cumprod_prev = alpha_bar_prev = np.append(1.0, alpha_bar[:-1])

        # q(x_t | x_0) (DDPM, eq. 4), and its inversion
        self.sqrt_alphas_cumprod = np.sqrt(alpha_bar)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - alpha_bar)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / alpha_bar)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / alpha_bar - 1)

        # q(x_{t-1} | x_t, x_0) (DDPM, eq. 6 and 7). Its variance is 0 at t = 0: the logarithm takes that of t = 1
        # there, and beta where there is no t = 1.
        self.posterior_variance = betas * (1 - alpha_bar_prev) / (1 - alpha_bar)
        second = 1 if len(betas) > 1 else 0
        floored = np.append(self.posterior_variance[second] or betas[0], self.posterior_variance[1:])
        self.posterior_log_variance_clipped = np.log(floored)
        self.posterior_mean_coef1 = betas * np.sqrt(alpha_bar_prev) / (1 - alpha_bar)
        self.posterior_mean_coef2 = (1 - alpha_bar_prev) * np.sqrt(1 - betas) / (1 - alpha_bar)

        # DPM-Solver++ in the half log-SNR lambda, which a step raises by h (Lu et al. 2022): e^-h, and the weight h / (2 h')
        # of the change of x_0 since the step before, of size h'. The first step has none before it, the last an infinite h.
        self.dpm_decay = np.sqrt(alpha_bar / (1 - alpha_bar) * (1 - alpha_bar_prev) / alpha_bar_prev)
        h = -np.log(self.dpm_decay[1:])
        self.dpm_extrapolation = np.concatenate([[0.0], h[:-1] / (2 * h[1:]), [0.0]])[: len(betas)]

        # The two ends between which a learned variance lies, and the fixed variance where none is learned
        self.log_betas = np.log(betas)
        self.fixed_log_variance = np.log(np.append(floored[0], betas[1:]))
        self._tables = {}

    def at(self, name, t):
        """The constant `name` at each t, float32 [B, 1, 1, 1] on t's device."""
        return self._on_device(name, t.device)[t][:, None, None, None]

    def _on_device(self, name, device):
        if (name, device) not in self._tables:  # one copy to the device per constant, not one per step
            table = torch.from_numpy(getattr(self, name))
            self._tables[name, device] = (table.float() if table.is_floating_point() else table).to(device)
        return self._tables[name, device]

    def network_timesteps(self, t):
        """What the network receives for t [B]: the original timestep, times 1000 / T where that is asked for."""
        original = self._on_device("timestep_map", t.device)[t]
        return original.float() * (1000 / self.config.diffusion_steps) if self.config.rescale_timesteps else original

    # -- the forward process ------------------------------------------------------------------------------------------

    def q_sample(self, x_start, t, noise):
        """x_t ~ q(x_t | x_0) (DDPM, eq. 4): x_start, noise [B, 1, H, W], t [B] -> [B, 1, H, W]."""
        return self.at("sqrt_alphas_cumprod", t) * x_start + self.at("sqrt_one_minus_alphas_cumprod", t) * noise

    def q_posterior(self, x_start, x_t, t):
        """Mean and log-variance of q(x_{t-1} | x_t, x_0) (DDPM, eq. 7)."""
        mean = self.at("posterior_mean_coef1", t) * x_start + self.at("posterior_mean_coef2", t) * x_t
        return mean, self.at("posterior_log_variance_clipped", t)

    def predict_xstart_from_eps(self, x_t, t, eps):
        return self.at("sqrt_recip_alphas_cumprod", t) * x_t - self.at("sqrt_recipm1_alphas_cumprod", t) * eps

    def predict_xstart_from_v(self, x_t, t, v):
        """Salimans and Ho 2022, appendix D."""
        return self.at("sqrt_alphas_cumprod", t) * x_t - self.at("sqrt_one_minus_alphas_cumprod", t) * v

    def v_of(self, x_0, t, noise):
        """V [B, 1, H, W] of a mask and its noise."""
        return self.at("sqrt_alphas_cumprod", t) * noise - self.at("sqrt_one_minus_alphas_cumprod", t) * x_0

    def predict_eps_from_xstart(self, x_t, t, x_0):
        return (self.at("sqrt_recip_alphas_cumprod", t) * x_t - x_0) / self.at("sqrt_recipm1_alphas_cumprod", t)

    # -- the reverse process ------------------------------------------------------------------------------------------

    @property
    def out_channels(self):
        """Channels that the network must give: the prediction, and the variance where it is learned."""
        return 2 if self.config.learn_sigma else 1

    def predict_xstart(self, output, x_t, t):
        """The clean mask in the network's raw output [B, out_channels, H, W], not clipped: [B, 1, H, W]."""
        prediction = output[:, :1]
        if self.config.predicts == "x0":
            return prediction
        invert = self.predict_xstart_from_v if self.config.predicts == "v" else self.predict_xstart_from_eps
        return invert(x_t, t, prediction)

    def p_mean_variance(self, output, x_t, t, clip_denoised=True):
        """The Gaussian p(x_{t-1} | x_t) that the network's raw output stands for.

        output         [B, out_channels, H, W]; the second channel is v in [-1, 1], the place of the log-variance
                       between the posterior's and beta_t (improved DDPM, eq. 15)
        clip_denoised  clip the predicted x_0 to [-1, 1]
        """
        if output.shape[1] != self.out_channels:
            raise ConfigError(
                f"the network gives {output.shape[1]} channels, --learn_sigma {self.config.learn_sigma} "
                f"wants {self.out_channels}"
            )
        x_0 = self.predict_xstart(output, x_t, t)
        x_0 = x_0.clamp(-1, 1) if clip_denoised else x_0
        mean, posterior_log_variance = self.q_posterior(x_0, x_t, t)
        if self.config.learn_sigma:
            share = (output[:, 1:] + 1) / 2
            log_variance = share * self.at("log_betas", t) + (1 - share) * posterior_log_variance
        else:
            log_variance = self.at("fixed_log_variance", t).expand_as(mean)
        return Prediction(x_0, mean, log_variance)

    # -- the loss -----------------------------------------------------------------------------------------------------

    def vb_term(self, output, x_start, x_t, t):
        """L_vb of one step in bits per dimension [B]: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, the
        negative log-likelihood of x_0 at t = 0 (improved DDPM, eq. 4 to 6).
        """
        true_mean, true_log_variance = self.q_posterior(x_start, x_t, t)
        p = self.p_mean_variance(output, x_t, t, clip_denoised=False)
        kl = mean_flat(normal_kl(true_mean, true_log_variance, p.mean, p.log_variance))
        nll = -mean_flat(discretized_gaussian_log_likelihood(x_start, p.mean, 0.5 * p.log_variance))
        return torch.where(t == 0, nll, kl) / math.log(2)

    def stable_target(self, x_start, x_t, t, rows):
        """E[x_0 | x_t] [B, 1, H, W], were x_0 one of the masks x_start that have its image, each as likely (Stable Target Field,
        Xu, Tong and Jaakkola 2023).

        The squared error to it is least for the same network as that to x_0, since each of these masks has its own x_t in the
        step; its value is less by the variance of x_0 given x_t, and so is the part that this has in the gradient.

        rows  [B], the number of each mask's image
        """
        x, masks = x_t.flatten(1), x_start.flatten(1)
        a, variance = (
            self.at("sqrt_alphas_cumprod", t).flatten(1),
            self.at("sqrt_one_minus_alphas_cumprod", t).flatten(1) ** 2,
        )
        log_likelihood = (
            a * (x @ masks.T) - a**2 * masks.square().sum(dim=1) / 2
        ) / variance  # but for what all masks share
        weights = log_likelihood.masked_fill(rows[:, None] != rows, -math.inf).softmax(dim=1)
        return (weights @ masks).view_as(x_start)

    def hybrid_loss(self, output, x_start, x_t, t, noise, target=None):
        """The terms of the diffusion loss, each [B] (improved DDPM, eq. 16).

        mse   squared error of the prediction (absent with use_kl)
        vb    L_vb; beside an MSE its gradient reaches the variance only, not the mean
        loss  what to minimise: mse + vb, or T * vb with use_kl

        target  the clean mask whose prediction the MSE asks for, [B, 1, H, W]; None: x_start
        """
        if self.config.use_kl:
            vb = self.vb_term(output, x_start, x_t, t)
            return {"vb": vb, "loss": self.num_timesteps * vb}

        x_0, eps = (x_start, noise) if target is None else (target, self.predict_eps_from_xstart(x_t, t, target))
        targets = {"x0": lambda: x_0, "eps": lambda: eps, "v": lambda: self.v_of(x_0, t, eps)}
        terms = {"mse": mean_flat((targets[self.config.predicts]() - output[:, :1]) ** 2)}
        if self.config.learn_sigma:
            frozen = torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
            weight = self.num_timesteps / 1000 if self.config.rescale_learned_sigmas else 1.0
            terms["vb"] = weight * self.vb_term(frozen, x_start, x_t, t)
        return {**terms, "loss": sum(terms.values())}
