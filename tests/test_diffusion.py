"""The process, its loss terms under every flag, and the samplers of timesteps."""

import math

import numpy as np
import pytest
import torch

from guided_diffusion import losses
from guided_diffusion.errors import ConfigError
from guided_diffusion.gaussian_diffusion import DiffusionConfig, get_named_beta_schedule
from guided_diffusion.methods.stable_target import stable_target
from guided_diffusion.resample import create_named_schedule_sampler
from guided_diffusion.respace import create_gaussian_diffusion, space_timesteps

B, SHAPE = 4, (4, 1, 6, 6)


def drawn(seed=0):
    g = torch.Generator().manual_seed(seed)
    x_0 = (torch.rand(SHAPE, generator=g) > 0.5).float()
    return x_0, torch.randn(SHAPE, generator=g), torch.tensor([0, 1, 20, 39])


def diffusion(**flags):
    return create_gaussian_diffusion(DiffusionConfig(diffusion_steps=40, **flags))


def test_q_sample_has_the_moments_of_the_closed_form():
    d = diffusion()
    x_0, t = torch.full((2, 1, 1, 100_000), 0.7), torch.tensor([5, 30])
    x_t = d.q_sample(x_0, t, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)))
    alpha_bar = d.alphas_cumprod[[5, 30]]
    np.testing.assert_allclose(x_t.mean((1, 2, 3)), 0.7 * np.sqrt(alpha_bar), atol=0.02)
    np.testing.assert_allclose(x_t.std((1, 2, 3)), np.sqrt(1 - alpha_bar), rtol=0.02)


def test_eps_and_x_0_are_inverse_to_each_other():
    d, (x_0, noise, t) = diffusion(), drawn()
    x_t = d.q_sample(x_0, t, noise)
    torch.testing.assert_close(d.predict_xstart_from_eps(x_t, t, noise), x_0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(d.predict_eps_from_xstart(x_t, t, x_0), noise, rtol=1e-3, atol=1e-3)


def test_posterior_is_bayes():
    """q(x_{t-1} | x_t, x_0) from the two Gaussians that it is the product of, in float64."""
    d = diffusion()
    for t in (1, 7, 39):
        prior_mean, prior_var = math.sqrt(d.alphas_cumprod[t - 1]) * 0.4, 1 - d.alphas_cumprod[t - 1]
        alpha, beta, x_t = 1 - d.betas[t], d.betas[t], -0.3
        precision = 1 / prior_var + alpha / beta
        mean = (prior_mean / prior_var + math.sqrt(alpha) * x_t / beta) / precision
        assert d.posterior_mean_coef1[t] * 0.4 + d.posterior_mean_coef2[t] * x_t == pytest.approx(mean, rel=1e-10)
        assert d.posterior_variance[t] == pytest.approx(1 / precision, rel=1e-10)


PREDICTIONS = [{}, {"predict_xstart": True}, {"prediction": "eps"}, {"prediction": "x0"}, {"prediction": "v"}]


@pytest.mark.parametrize("flags", PREDICTIONS)
def test_mse_targets(flags):
    d, (x_0, noise, t) = diffusion(**flags), drawn()
    output = torch.randn(SHAPE)
    terms = d.hybrid_loss(output, x_0, d.q_sample(x_0, t, noise), t, noise)
    alpha_bar = torch.tensor(d.alphas_cumprod)[t].float()[:, None, None, None]
    target = {"eps": noise, "x0": x_0, "v": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0}[d.config.predicts]
    torch.testing.assert_close(terms["mse"], ((target - output) ** 2).flatten(1).mean(1))
    assert set(terms) == {"mse", "loss"} and torch.equal(terms["loss"], terms["mse"])


@pytest.mark.parametrize("flags", PREDICTIONS)
def test_the_true_prediction_gives_x_0_back(flags):
    d, (x_0, noise, t) = diffusion(noise_schedule="cosine", **flags), drawn()
    x_t = d.q_sample(x_0, t, noise)
    predicted = {"eps": noise, "x0": x_0, "v": d.v_of(x_0, t, noise)}[d.config.predicts]
    torch.testing.assert_close(d.predict_xstart(predicted, x_t, t), x_0, rtol=1e-3, atol=1e-3)


def test_stable_target_is_bayes_over_the_masks_of_the_same_image():
    """By the Gaussian densities themselves, in float64, one mask and one candidate at a time."""
    d, (x_0, noise, _) = diffusion(), drawn()
    rows, t = torch.tensor([0, 1, 0, 0]), torch.tensor([39, 20, 12, 0])
    x_t = d.q_sample(x_0, t, noise)
    target = stable_target(d, x_0, x_t, t, rows)
    for b in range(B):
        alpha_bar = d.alphas_cumprod[t[b]]
        same = [c for c in range(B) if rows[c] == rows[b]]
        squares = [((x_t[b].double() - math.sqrt(alpha_bar) * x_0[c].double()) ** 2).sum() for c in same]
        density = torch.stack([torch.exp(-(square - min(squares)) / (2 * (1 - alpha_bar))) for square in squares])
        expected = sum(p * x_0[c] for p, c in zip(density / density.sum(), same, strict=True))
        torch.testing.assert_close(target[b], expected.float(), atol=1e-4, rtol=1e-4)
    assert torch.equal(target[[1, 3]], x_0[[1, 3]])  # its only mask; and no noise to hide it


@pytest.mark.parametrize("flags", [{}, {"learn_sigma": True}, {"use_kl": True, "learn_sigma": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_terms_of_several_channels_are_means_of_those_of_each(flags, masked):
    """The first K outputs are the prediction, the last K the variance; means are over the pixels that count."""
    d, K, g = diffusion(**flags), 3, torch.Generator().manual_seed(0)
    x_0 = (torch.rand(B, K, 6, 6, generator=g) > 0.5).float()
    noise, t = torch.randn(B, K, 6, 6, generator=g), torch.tensor([0, 1, 20, 39])
    output = torch.randn(B, K * d.out_channels, 6, 6, generator=g)
    x_t, target = d.q_sample(x_0, t, noise), torch.rand(B, K, 6, 6, generator=g)
    valid = torch.ones(B, 1, 6, 6)
    valid[..., 4:] = 0
    width = 4 if masked else 6
    found = d.hybrid_loss(output, x_0, x_t, t, noise, target, valid=valid if masked else None)
    each = []
    for k in range(K):
        own = [x[:, k : k + 1, :, :width] for x in (x_0, x_t, noise, target)]
        each.append(d.hybrid_loss(output[:, k::K, :, :width], own[0], own[1], t, own[2], own[3]))
    for name, value in found.items():
        torch.testing.assert_close(value, sum(terms[name] for terms in each) / K)


def test_stable_target_of_several_channels_weighs_them_together():
    """As of one channel on a picture K times as high."""
    d, g = diffusion(), torch.Generator().manual_seed(0)
    x_0 = (torch.rand(B, 3, 2, 6, generator=g) > 0.5).float()
    t, rows = torch.tensor([39, 30, 25, 20]), torch.tensor([0, 1, 0, 0])
    x_t = d.q_sample(x_0, t, torch.randn(x_0.shape, generator=g))
    tall = stable_target(d, x_0.reshape(B, 1, 6, 6), x_t.reshape(B, 1, 6, 6), t, rows)
    torch.testing.assert_close(stable_target(d, x_0, x_t, t, rows), tall.reshape(B, 3, 2, 6))


def test_outputs_that_do_not_fit_the_channels_are_refused():
    d, x = diffusion(learn_sigma=True), torch.zeros(1, 3, 4, 4)
    with pytest.raises(ConfigError, match="5 output channels, but --learn_sigma True needs 6"):
        d.p_mean_variance(torch.zeros(1, 5, 4, 4), x, torch.tensor([3]))


@pytest.mark.parametrize("t", [5, 8, 15])
def test_stable_target_moves_no_minimum(t):
    """A squared error is least where E[target | x_t] is: E[(target - x_0) f(x_t)] = 0 whatever f."""
    d, g = diffusion(), torch.Generator().manual_seed(0)
    raters, images = torch.tensor([[0.0, 0, 1], [0, 1, 1], [0, 1, 1]]), 500
    x_0, rows = raters.repeat(images, 1)[:, None, None], torch.arange(3 * images) // 3
    t, difference = torch.full((len(x_0),), t), 0
    for _ in range(10):
        x_t = d.q_sample(x_0, t, torch.randn(x_0.shape, generator=g))
        difference += ((stable_target(d, x_0, x_t, t, rows) - x_0) * torch.tanh(x_t)).mean(dim=(0, 1, 2)) / 10
    assert difference.abs().max() < 0.005  # half or twice the likelihood's exponent gives 0.01 to 0.05


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_mask_scale_changes_the_signal_to_noise_ratio_by_its_square(schedule):
    plain, scaled = diffusion(noise_schedule=schedule), diffusion(noise_schedule=schedule, mask_scale=0.5)
    snr = [d.alphas_cumprod / (1 - d.alphas_cumprod) for d in (plain, scaled)]
    np.testing.assert_allclose(snr[1], 0.25 * snr[0], rtol=1e-6)
    with pytest.raises(ConfigError, match="--mask_scale 0"):
        diffusion(mask_scale=0.0)


def test_vb_of_the_true_prediction_is_small_and_grows_with_a_wrong_one():
    """With the right eps the KL for t > 0 is the variances' alone; v = -1 is the posterior's variance: 0."""
    d, (x_0, noise, t) = diffusion(learn_sigma=True), drawn()
    x_t = d.q_sample(x_0, t, noise)
    right = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    torch.testing.assert_close(d.vb_term(right, x_0, x_t, t)[1:], torch.zeros(3), rtol=0, atol=1e-4)
    wrong = torch.cat([noise + 1, -torch.ones_like(noise)], dim=1)
    assert (d.vb_term(wrong, x_0, x_t, t)[1:] > 0.01).all()


def test_vb_beside_the_mse_moves_only_the_variance_and_rescaling_weighs_it():
    x_0, noise, t = drawn()
    grads = {}
    for rescaled in (False, True):
        d = diffusion(learn_sigma=True, rescale_learned_sigmas=rescaled)
        output = torch.randn(B, 2, 6, 6, generator=torch.Generator().manual_seed(3), requires_grad=True)
        terms = d.hybrid_loss(output, x_0, d.q_sample(x_0, t, noise), t, noise)
        torch.testing.assert_close(terms["loss"], terms["mse"] + terms["vb"])
        (grads[rescaled],) = torch.autograd.grad(terms["vb"].sum(), output)
        assert (grads[rescaled][:, 0] == 0).all() and (grads[rescaled][:, 1] != 0).any()
    torch.testing.assert_close(grads[True], grads[False] * 40 / 1000)


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_use_kl_is_T_times_the_live_bound(learn_sigma):
    d, (x_0, noise, t) = diffusion(use_kl=True, learn_sigma=learn_sigma), drawn()
    output = torch.randn(B, d.out_channels, 6, 6, requires_grad=True)
    x_t = d.q_sample(x_0, t, noise)
    terms = d.hybrid_loss(output, x_0, x_t, t, noise)
    torch.testing.assert_close(terms["loss"], 40 * d.vb_term(output, x_0, x_t, t))
    (gradient,) = torch.autograd.grad(terms["loss"].sum(), output)
    assert (gradient[:, 0] != 0).any()  # live: the mean learns too


def test_fixed_variance_is_beta_with_its_first_entry_from_the_posterior():
    d = diffusion()
    t = torch.arange(40)
    p = d.p_mean_variance(torch.zeros(40, 1, 1, 1), torch.zeros(40, 1, 1, 1), t)
    expected = np.append(d.posterior_variance[1], d.betas[1:])
    np.testing.assert_allclose(p.log_variance.flatten().exp(), expected, rtol=1e-5)


def test_learned_variance_runs_from_the_posteriors_to_beta():
    d, t = diffusion(learn_sigma=True), torch.arange(1, 40)
    for v, expected in ((-1.0, d.posterior_variance[1:]), (1.0, d.betas[1:])):
        output = torch.tensor([0.0, v]).view(1, 2, 1, 1).expand(39, -1, -1, -1)
        p = d.p_mean_variance(output, torch.zeros(39, 1, 1, 1), t)
        np.testing.assert_allclose(p.log_variance.flatten().exp(), expected, rtol=1e-5)


def test_discretised_likelihood_sums_to_one():
    levels = torch.linspace(-1, 1, 256)
    for mean, scale in ((0.1, 0.05), (-1.0, 0.3), (0.97, 0.01)):
        log_p = losses.discretized_gaussian_log_likelihood(levels, torch.tensor(mean), torch.tensor(math.log(scale)))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_respaced_process_keeps_alpha_bar_and_knows_the_original_timesteps():
    whole, spaced = diffusion(), diffusion(timestep_respacing="ddim10")
    assert spaced.timestep_map.tolist() == list(range(0, 40, 4))
    np.testing.assert_allclose(spaced.alphas_cumprod, whole.alphas_cumprod[spaced.timestep_map], rtol=1e-12)
    assert spaced.network_timesteps(torch.tensor([0, 9])).tolist() == [0, 36]


def test_rescaled_timesteps_are_what_the_network_sees():
    d = diffusion(rescale_timesteps=True, timestep_respacing="10")
    assert d.network_timesteps(torch.tensor([9])).tolist() == [39 * 25.0]


def test_one_timestep_alone_works():
    d = diffusion(timestep_respacing="1", learn_sigma=True)
    p = d.p_mean_variance(torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2), torch.tensor([0]))
    assert torch.isfinite(p.log_variance).all()


@pytest.mark.parametrize("T", [2, 10, 20])
def test_linear_schedule_too_short_is_refused(T):
    with pytest.raises(ConfigError, match="diffusion_steps"):
        get_named_beta_schedule("linear", T)
    assert get_named_beta_schedule("cosine", T).max() < 1
    assert get_named_beta_schedule("linear", 21).max() < 1


@pytest.mark.parametrize("spec", ["ddim19", "ddimx", "50", "10,31", "x", "-1", "0"])
def test_impossible_spacings_are_refused(spec):
    with pytest.raises(ConfigError, match="timestep_respacing"):
        space_timesteps(40, spec)


def test_uniform_sampler_covers_every_timestep_evenly():
    t, weights = create_named_schedule_sampler("uniform", 40).sample((torch.arange(4000) + 0.5) / 4000)
    assert torch.equal(t.bincount(), torch.full((40,), 100)) and (weights == 1).all()


def test_loss_second_moment_sampler_follows_the_losses_and_stays_unbiased():
    sampler = create_named_schedule_sampler("loss-second-moment", 4)
    u = (torch.arange(100_000) + 0.5) / 100_000
    assert sampler.sample(u)[0].bincount().tolist() == [25_000] * 4  # uniform until it knows every timestep
    loss_of = torch.tensor([1.0, 2.0, 3.0, 10.0])
    for _ in range(12):
        sampler.update(torch.arange(4), loss_of)
    expected = 0.999 * loss_of / loss_of.sum() + 0.001 / 4
    t, weights = sampler.sample(u)
    torch.testing.assert_close(t.bincount() / len(u), expected, rtol=0, atol=1e-3)
    assert (weights * loss_of[t]).mean().item() == pytest.approx(loss_of.mean().item(), rel=1e-3)

    sampler.update(torch.full((10,), 0), torch.full((10,), 10.0))  # ten new losses push the old ones out
    assert sampler.probabilities()[0] == pytest.approx(sampler.probabilities()[3])
    restored = create_named_schedule_sampler("loss-second-moment", 4)
    restored.load_state_dict(sampler.state_dict())
    assert torch.equal(restored.probabilities(), sampler.probabilities())
