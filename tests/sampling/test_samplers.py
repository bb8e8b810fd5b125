"""Samplers against a case solved in closed form: x_0 normal, so that every step is linear in x_t and the noise."""

import numpy as np
import pytest
import torch

from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.nn import seeded_generator, stack_randn
from guided_diffusion.respace import create_gaussian_diffusion, spread_timesteps
from guided_diffusion.sampling.samplers import sample, sample_loop

MEAN, DEVIATION = 0.3, 0.2


def best_x_0(alpha_bar):
    """E[x_0 | x_t] = a + b x_t for x_0 ~ N(MEAN, DEVIATION^2)."""
    variance = alpha_bar * DEVIATION**2 + 1 - alpha_bar
    b = np.sqrt(alpha_bar) * DEVIATION**2 / variance
    return MEAN - b * np.sqrt(alpha_bar) * MEAN, b


def oracle(diffusion):
    """The optimal network for predicting eps or x_0; it receives original timesteps."""
    alpha_bar = {int(t): diffusion.alphas_cumprod[i] for i, t in enumerate(diffusion.timestep_map)}

    def denoise(x, timesteps):
        ab = alpha_bar[int(timesteps[0])]
        a, b = best_x_0(ab)
        x_0 = a + b * x
        return x_0 if diffusion.config.predict_xstart else (x - np.sqrt(ab) * x_0) / np.sqrt(1 - ab)

    return denoise


def half_log_snr(alpha_bar):
    return 0.5 * np.log(alpha_bar / (1 - alpha_bar))


def recursion(diffusion, sampler, eta):
    """Mean and deviation of x after every step, from the coefficients alone, written from the papers' formulas.

    Every step is linear: x_{t-1} = c0 D + ct x_t + noise, D the predicted x_0, or of second order D + w (D - D_before).
    With D = a + b x, and the pair (x, D_before) for a state, mean and covariance follow exactly.
    """
    mean, covariance = np.zeros(2), np.array([[1.0, 0.0], [0.0, 0.0]])
    ab_all = diffusion.alphas_cumprod
    for i in reversed(range(len(ab_all))):
        ab, prev = ab_all[i], ab_all[i - 1] if i else 1.0
        beta, weight = 1 - ab / prev, 0.0
        a, b = best_x_0(ab)
        if sampler == "ddpm":
            c0, ct = np.sqrt(prev) * beta / (1 - ab), np.sqrt(1 - beta) * (1 - prev) / (1 - ab)
            noise = beta if i else 0.0
        elif sampler == "ddim":
            noise = eta**2 * (1 - prev) / (1 - ab) * beta
            ct = np.sqrt((1 - prev - noise) / (1 - ab))
            c0 = np.sqrt(prev) - ct * np.sqrt(ab)
        else:
            h = half_log_snr(prev) - half_log_snr(ab) if i else np.inf
            ct = np.sqrt((1 - prev) / (1 - ab)) * (np.exp(-eta * h) if eta else 1.0)
            c0 = np.sqrt(prev) * (1 - np.exp(-(1 + eta) * h))
            noise = (1 - prev) * (1 - np.exp(-2 * eta * h)) if eta else 0.0
            if 0 < i < len(ab_all) - 1:
                before = half_log_snr(ab) - half_log_snr(ab_all[i + 1])
                weight = 0.5 / (before / h)  # 1 / (2 r), r = h_before / h
        step = np.array([[c0 * (1 + weight) * b + ct, -c0 * weight], [b, 0.0]])
        mean = step @ mean + [c0 * (1 + weight) * a, a]
        covariance = step @ covariance @ step.T + [[noise, 0], [0, 0]]
        yield mean[0], np.sqrt(covariance[0, 0])


SETTINGS = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("dpm++", 0.0), ("dpm++", 0.5), ("dpm++", 1.0)]


def spaced(steps, spacing="linear", **config):
    config = DiffusionConfig(**config)
    return create_gaussian_diffusion(config, spread_timesteps(config, steps, spacing))


def exact_moments(diffusion, sampler, eta):
    """Mean and deviation of x after every step of sample_loop, for standard normal x_T and noise.

    x is an affine function of x_T and the noise of each step. Its coefficients are read off one float64 chain on a
    batch of inputs (x_T, noise of step 0, 1, ...): all 0, each of them 1 in turn, and random ones, which must give the
    combination.
    """
    count = diffusion.num_timesteps + 1 if sampler == "ddpm" or eta else 1  # without noise x_T alone counts
    inputs = torch.zeros(count + 2, count, dtype=torch.float64)
    inputs[1:-1] = torch.eye(count)
    inputs[-1] = torch.randn(count, generator=torch.Generator().manual_seed(0))
    masks = inputs.T[..., None, None, None]  # [count, B, 1, 1, 1]
    chain = sample_loop(
        oracle(diffusion), diffusion, masks[0], sampler, eta, lambda k, x: masks[k + 1], clip_denoised=False
    )
    for _, x, _ in chain:
        x = x.flatten()
        constant, slopes = x[0], x[1:-1] - x[0]
        assert abs(x[-1] - constant - inputs[-1] @ slopes) < 1e-9
        yield constant.item(), slopes.norm().item()


def assert_follows_recursion(diffusion, sampler, eta):
    """Mean and deviation of x after each step are those of the recursion; returns those after the last."""
    ours, expected = list(exact_moments(diffusion, sampler, eta)), list(recursion(diffusion, sampler, eta))
    assert len(ours) == diffusion.num_timesteps
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)  # the loop's constants are float32
    return ours[-1]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler, eta", SETTINGS)
@pytest.mark.usefixtures("unchecked")
def test_oracle_with_every_step(schedule, sampler, eta):
    mean, deviation = assert_follows_recursion(spaced(1000, noise_schedule=schedule), sampler, eta)
    assert (
        abs(mean - MEAN) < 0.0005 and abs(deviation - DEVIATION) < 0.004
    )  # many steps come close to the Gaussian itself


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler, eta", SETTINGS)
@pytest.mark.parametrize("spacing", ["linear", "quadratic", "logsnr"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_oracle_with_few_steps(schedule, sampler, eta, spacing, steps):
    # At the cosine schedule's end alpha_bar is 2e-9, and x_0 does not follow from eps by constants in float32.
    diffusion = spaced(steps, spacing, noise_schedule=schedule, predict_xstart=schedule == "cosine")
    assert_follows_recursion(diffusion, sampler, eta)


@pytest.mark.parametrize("sampler, eta", SETTINGS)
@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_oracle_that_predicts_something_else(sampler, eta, prediction):
    """The same chain from a network that predicts x_0 or v, its variance learned: 1 is the log-variance log beta."""
    diffusion = spaced(10, noise_schedule="cosine")
    other = spaced(10, noise_schedule="cosine", prediction=prediction, learn_sigma=True)
    predict_eps = oracle(diffusion)

    def predict_something_else(x, timesteps):
        t = torch.full((len(x),), list(diffusion.timestep_map).index(int(timesteps[0])))
        alpha_bar, eps = diffusion.alphas_cumprod[t[0]], predict_eps(x, timesteps)
        x_0 = diffusion.predict_xstart_from_eps(x, t, eps)
        predicted = x_0 if prediction == "x0" else np.sqrt(alpha_bar) * eps - np.sqrt(1 - alpha_bar) * x_0
        return torch.cat([predicted, torch.ones_like(x_0)], dim=1)

    x_T, noises = torch.randn(2, 1, 8, 8), torch.randn(10, 2, 1, 8, 8)
    ends = [
        sample(denoise, process, x_T, sampler, eta, lambda k, x: noises[k], clip_denoised=False)
        for denoise, process in ((predict_eps, diffusion), (predict_something_else, other))
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=2e-4)


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpm++", 2)])
def test_order_of_convergence(sampler, order):
    """The deterministic methods approach the ODE's exact solution as 1 / steps and 1 / steps^2.

    The ODE carries x_T with deviation s_T to one with deviation s_0 by the ratio of the marginal deviations at both
    ends.
    The steps are even in log-SNR, between two fixed ends, and follow the linear schedule of a very long process.
    """
    config = DiffusionConfig(diffusion_steps=100_000)
    full = create_gaussian_diffusion(config)
    first, last = 1000, 90_000  # away from t = 0, where the log-SNR has no bound

    def marginal(i):
        return np.sqrt(full.alphas_cumprod[i] * DEVIATION**2 + 1 - full.alphas_cumprod[i])

    exact = marginal(first) / marginal(last)
    noise_level = np.log(1 / full.alphas_cumprod - 1)
    errors = []
    for steps in (10, 20, 40, 80):
        levels = np.linspace(noise_level[first], noise_level[last], steps + 1)
        kept = np.round(np.interp(levels, noise_level, np.arange(100_000))).astype(int)
        diffusion = create_gaussian_diffusion(config, kept)
        denoise = oracle(diffusion)
        x_T = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)  # the difference of the two is the slope of the linear map
        chain = sample_loop(denoise, diffusion, x_T, sampler, clip_denoised=False)
        for _ in range(steps):  # all but the step to t = 0
            _, x, _ = next(chain)
        errors.append(abs((x[1] - x[0]).item() - exact))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders[-1] == pytest.approx(order, abs=0.25), (errors, orders)


# -- where the steps lie ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["linear", "quadratic", "logsnr"])
@pytest.mark.usefixtures("unchecked")
def test_any_number_of_steps(schedule, spacing):
    T = 200
    config = DiffusionConfig(diffusion_steps=T, noise_schedule=schedule)
    for steps in range(1, T + 1):
        timesteps = spread_timesteps(config, steps, spacing)
        assert len(timesteps) == steps and timesteps[-1] == T - 1 and timesteps[0] >= 0
        assert (np.diff(timesteps) > 0).all()
        assert steps == 1 or timesteps[0] == 0
    for steps in (0, T + 1):
        with pytest.raises(ConfigError, match=f"--steps {steps}"):
            spread_timesteps(config, steps, spacing)


def test_spacings_are_what_they_say():
    config = DiffusionConfig()
    assert list(spread_timesteps(config, 4)) == [0, 333, 666, 999]
    assert list(spread_timesteps(config, 4, "quadratic")) == [0, 111, 444, 999]
    alpha_bar = create_gaussian_diffusion(config).alphas_cumprod[spread_timesteps(config, 8, "logsnr")]
    strides = np.diff(half_log_snr(alpha_bar))
    assert np.abs(strides / strides.mean() - 1).max() < 0.15  # whole timesteps come only so near


# -- an implementation apart from this one ----------------------------------------------------------------------------


def made_up_network(x, timesteps):
    """Predictions that follow from t alone, so that both implementations see the same."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(int(timesteps[0])))


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_agrees_with_diffusers(kind, eta):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        clip_sample=True,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type=kind,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(20)
    diffusion = create_gaussian_diffusion(DiffusionConfig(timestep_respacing="ddim20", predict_xstart=kind == "sample"))
    assert list(scheduler.timesteps) == list(diffusion.timestep_map[::-1])

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 8, 8, generator=generator)
    noises = torch.randn(20, *x.shape, generator=generator)
    chain = sample_loop(made_up_network, diffusion, x, "ddim", eta, lambda k, x: noises[k])
    for k, (t, (_, ours, x_0)) in enumerate(zip(scheduler.timesteps, chain, strict=True)):
        output = made_up_network(x, t.expand(2))
        theirs = scheduler.step(output, t, x, eta=eta, use_clipped_model_output=True, variance_noise=noises[k])
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=0, atol=1e-4)
        torch.testing.assert_close(x_0, theirs.pred_original_sample.clamp(-1, 1), rtol=0, atol=1e-4)
        x = theirs.prev_sample


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", ["epsilon", "sample"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [2, 10, 20])
def test_dpm_solver_agrees_with_diffusers(schedule, kind, eta, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule=schedule,
        prediction_type=kind,
        solver_order=2,
        solver_type="midpoint",
        algorithm_type="sde-dpmsolver++" if eta else "dpmsolver++",
        final_sigmas_type="zero",
        timestep_spacing="linspace",
        lambda_min_clipped=-float("inf"),
    )
    config = DiffusionConfig(
        noise_schedule="linear" if schedule == "linear" else "cosine", predict_xstart=kind == "sample"
    )
    scheduler.set_timesteps(steps)
    kept = scheduler.timesteps.numpy()[::-1].copy()  # theirs end above 0
    diffusion = create_gaussian_diffusion(config, kept)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 8, 8, generator=generator)
    noises = torch.randn(steps, *x.shape, generator=generator)
    chain = sample_loop(made_up_network, diffusion, x, "dpm++", eta, lambda k, x: noises[k], clip_denoised=False)
    for k, (t, (_, ours, _)) in enumerate(zip(scheduler.timesteps, chain, strict=True)):
        x = scheduler.step(made_up_network(x, t.expand(2)), t, x, variance_noise=noises[k]).prev_sample
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_ten_ddpm_steps_are_honestly_too_wide():
    """A value known apart from this code: ten steps of the linear schedule give a deviation of 0.38, not 0.2."""
    few = list(recursion(spaced(10), "ddpm", 0.0))[-1]
    assert few[1] == pytest.approx(0.38, abs=0.005)


def test_same_noise_gives_same_samples_whatever_the_batch():
    diffusion = create_gaussian_diffusion(DiffusionConfig(timestep_respacing="10"))
    x_T, noises = torch.randn(4, 1, 8, 8), torch.randn(10, 4, 1, 8, 8)
    whole = sample(oracle(diffusion), diffusion, x_T, noise_fn=lambda k, x: noises[k])
    single = [
        sample(oracle(diffusion), diffusion, x_T[i : i + 1], noise_fn=lambda k, x: noises[k, i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.cat(single), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler, eta", SETTINGS)
def test_noise_is_asked_for_where_there_is_some(sampler, eta):
    asked = []

    def noise(k, x):
        asked.append(k)
        return torch.randn_like(x)

    diffusion = spaced(5)
    sample(oracle(diffusion), diffusion, torch.randn(2, 1, 4, 4), sampler, eta, noise)
    assert asked == ([0, 1, 2, 3] if sampler == "ddpm" or eta else [])  # never at the end


def test_clipping():
    diffusion = create_gaussian_diffusion(DiffusionConfig(timestep_respacing="5", predict_xstart=True))
    far = lambda x, t: torch.full_like(x, 7.0)
    x_T = torch.randn(1, 1, 4, 4)
    assert sample(far, diffusion, x_T, "ddim").max().item() == pytest.approx(1, abs=1e-5)
    assert sample(far, diffusion, x_T, "ddim", clip_denoised=False).max().item() == pytest.approx(7, abs=1e-4)


def test_noise_comes_from_the_global_generator_where_none_is_given():
    diffusion, x_T = spaced(5), torch.randn(2, 1, 4, 4)
    torch.manual_seed(7)
    by_default = sample(oracle(diffusion), diffusion, x_T)
    torch.manual_seed(7)
    assert torch.equal(by_default, sample(oracle(diffusion), diffusion, x_T, noise_fn=lambda k, x: torch.randn_like(x)))


def test_unknown_sampler_is_refused():
    diffusion = create_gaussian_diffusion(DiffusionConfig())
    with pytest.raises(ConfigError, match="heun"):
        sample(oracle(diffusion), diffusion, torch.zeros(1, 1, 2, 2), "heun")


@pytest.mark.parametrize("shape", [(3,), (1, 64, 64), (2, 5, 7)])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_row_of_noise_is_its_generators_whatever_the_threads(monkeypatch, shape, threads):
    monkeypatch.setattr("guided_diffusion.nn.DRAWN_IN_PARALLEL", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    expected = torch.stack([torch.randn(shape, generator=seeded_generator(k)) for k in range(9)])
    assert torch.equal(stack_randn([seeded_generator(k) for k in range(9)], shape), expected)
    with torch.inference_mode():
        assert torch.equal(stack_randn([seeded_generator(k) for k in range(9)], shape), expected)
