"""Samplers against a case that is solved in closed form: x_0 normal, so that every step is linear in x_t and the noise."""

import numpy as np
import pytest
import torch

from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.nn import ConfigError
from guided_diffusion.respace import create_gaussian_diffusion
from guided_diffusion.sampling import sample, sample_loop

MEAN, DEVIATION = 0.3, 0.2
COUNT = 200_000


def best_x_0(alpha_bar):
    """E[x_0 | x_t] = a + b x_t for x_0 ~ N(MEAN, DEVIATION^2)."""
    variance = alpha_bar * DEVIATION**2 + 1 - alpha_bar
    b = np.sqrt(alpha_bar) * DEVIATION**2 / variance
    return MEAN - b * np.sqrt(alpha_bar) * MEAN, b


def oracle(diffusion):
    """The network that predicts eps as well as can be; it receives original timesteps."""
    alpha_bar = {int(t): diffusion.alphas_cumprod[i] for i, t in enumerate(diffusion.timestep_map)}

    def denoise(x, timesteps):
        ab = alpha_bar[int(timesteps[0])]
        a, b = best_x_0(ab)
        return (x - np.sqrt(ab) * (a + b * x)) / np.sqrt(1 - ab)

    return denoise


def recursion(diffusion, sampler, eta):
    """Mean and deviation of x after every step, from the coefficients alone, written from the papers' formulas."""
    mean, variance = 0.0, 1.0
    ab_all = diffusion.alphas_cumprod
    for i in reversed(range(len(ab_all))):
        ab, prev = ab_all[i], ab_all[i - 1] if i else 1.0
        beta = 1 - ab / prev
        a, b = best_x_0(ab)
        if sampler == "ddpm":
            c0, ct = np.sqrt(prev) * beta / (1 - ab), np.sqrt(1 - beta) * (1 - prev) / (1 - ab)
            noise = beta if i else 0.0
        else:
            noise = eta**2 * (1 - prev) / (1 - ab) * beta
            ct = np.sqrt((1 - prev - noise) / (1 - ab))
            c0 = np.sqrt(prev) - ct * np.sqrt(ab)
        mean = c0 * (a + b * mean) + ct * mean
        variance = (c0 * b + ct) ** 2 * variance + noise
        yield mean, np.sqrt(variance)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler, eta", [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0)])
@pytest.mark.parametrize("steps", [1000, 50, 10])
def test_oracle(schedule, sampler, eta, steps):
    diffusion = create_gaussian_diffusion(DiffusionConfig(noise_schedule=schedule, timestep_respacing=str(steps)))
    generator = torch.Generator().manual_seed(0)
    count = COUNT if steps < 1000 else COUNT // 4

    def noise(k, x):
        return torch.randn(x.shape, generator=generator)

    x_T = noise(None, torch.empty(1, 1, 1, count))
    chain = sample_loop(oracle(diffusion), diffusion, x_T, sampler, eta, noise, clip_denoised=False)
    for k, ((_, x, _), (mean, deviation)) in enumerate(zip(chain, recursion(diffusion, sampler, eta))):
        if k % max(1, steps // 10) == 0 or k == steps - 1:
            margin = 5 * deviation / np.sqrt(count)  # five standard errors
            assert abs(x.mean().item() - mean) < margin + 1e-5
            assert abs(x.std().item() - deviation) < margin + 1e-5
    assert k == steps - 1
    if steps == 1000:  # many steps come close to the Gaussian itself
        assert abs(mean - MEAN) < 0.002 and abs(deviation - DEVIATION) < 0.006


def test_ten_ddpm_steps_are_honestly_too_wide():
    """A value known apart from this code: ten steps of the linear schedule give a deviation of 0.38, not 0.2."""
    few = list(recursion(create_gaussian_diffusion(DiffusionConfig(timestep_respacing="10")), "ddpm", 0.0))[-1]
    assert few[1] == pytest.approx(0.38, abs=0.005)


def test_same_noise_gives_same_samples_whatever_the_batch():
    diffusion = create_gaussian_diffusion(DiffusionConfig(timestep_respacing="10"))
    x_T, noises = torch.randn(4, 1, 8, 8), torch.randn(10, 4, 1, 8, 8)
    whole = sample(oracle(diffusion), diffusion, x_T, noise_fn=lambda k, x: noises[k])
    single = [sample(oracle(diffusion), diffusion, x_T[i : i + 1], noise_fn=lambda k, x: noises[k, i : i + 1]) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(single), rtol=0, atol=1e-6)


def test_ddpm_adds_no_noise_at_the_end_and_ddim_none_at_eta_0():
    diffusion = create_gaussian_diffusion(DiffusionConfig(timestep_respacing="5"))
    x_T = torch.randn(2, 1, 4, 4)
    loud = lambda k, x: torch.full_like(x, 1e6) if k == 4 else torch.zeros_like(x)
    assert sample(oracle(diffusion), diffusion, x_T, "ddpm", noise_fn=loud).abs().max() < 10
    everywhere = lambda k, x: torch.full_like(x, 1e6)
    assert sample(oracle(diffusion), diffusion, x_T, "ddim", noise_fn=everywhere).abs().max() < 10


def test_clipping():
    diffusion = create_gaussian_diffusion(DiffusionConfig(timestep_respacing="5", predict_xstart=True))
    far = lambda x, t: torch.full_like(x, 7.0)
    x_T = torch.randn(1, 1, 4, 4)
    assert sample(far, diffusion, x_T, "ddim").max().item() == pytest.approx(1, abs=1e-5)
    assert sample(far, diffusion, x_T, "ddim", clip_denoised=False).max().item() == pytest.approx(7, abs=1e-4)


def test_unknown_sampler_is_refused():
    diffusion = create_gaussian_diffusion(DiffusionConfig())
    with pytest.raises(ConfigError, match="heun"):
        sample(oracle(diffusion), diffusion, torch.zeros(1, 1, 2, 2), "heun")
