"""The shared encoder: an image is encoded once, and the denoiser sees all of its features and of x_t."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, assert_refused, call_script, nonzero, segmenter_of
from scipy.special import logsumexp, softmax

from guided_diffusion.checkpoints.weights import load_weights
from guided_diffusion.errors import CheckpointError
from guided_diffusion.gaussian_diffusion import DiffusionConfig, scheduled_betas
from guided_diffusion.methods.mask_mixture import MaskMixture
from guided_diffusion.methods.shared_encoder import ArchitectureConfig, SharedEncoderUNet
from guided_diffusion.respace import create_gaussian_diffusion
from guided_diffusion.unet import UNetConfig

SHARED = {**TINY, "architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1,1", "dropout": 0.0}


def build(**flags):
    torch.manual_seed(0)
    return nonzero(segmenter_of({**SHARED, **flags})).eval()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_every_pixel_of_image_and_mask_is_seen(patch):
    """The output in one corner changes with the image and the mask in every patch near it, and with t."""
    segmenter = build(patch_size=patch)
    image, x, t = (
        torch.rand(1, 1, 16, 16, requires_grad=True),
        torch.randn(1, 1, 16, 16, requires_grad=True),
        torch.tensor([3]),
    )
    output = segmenter.denoiser(image)(x, t)
    assert output.shape == (1, 2, 16, 16)
    output[..., 8, 8].sum().backward()
    assert (image.grad != 0).all() and (x.grad != 0).all()
    assert (segmenter.denoiser(image)(x, torch.tensor([30])) - output).abs().max() > 1e-4


def test_the_encoder_runs_once_for_each_image():
    segmenter, calls = build(), []
    segmenter.model.encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    image, rows = torch.rand(2, 1, 16, 16), torch.tensor([0, 0, 0, 1, 1])
    denoise = segmenter.denoiser(image, rows)
    x, t = torch.randn(5, 1, 16, 16), torch.tensor([3])
    shared = [denoise(x, t) for _ in range(3)][-1]
    assert calls == [2]
    torch.testing.assert_close(shared, segmenter.denoiser(image[rows])(x, t.expand(5)))


def test_the_output_is_the_encoders_guess_and_what_the_denoiser_adds():
    with_guess, without = build(), build(encoder_guesses=0)
    image, x, t = torch.rand(1, 1, 16, 16), torch.randn(1, 1, 16, 16), torch.tensor([3])
    output = with_guess.denoiser(image)(x, t)
    with torch.no_grad():
        for parameter in with_guess.model.denoiser.out[-1].parameters():
            parameter.zero_()
    guess = with_guess.denoiser(image)(x, t)
    assert guess.abs().min() > 0 and torch.equal(guess, with_guess.denoiser(image)(-x, t - 1))  # of the image alone
    assert not torch.equal(guess, output)
    torch.testing.assert_close(
        guess[0, :, 2:4, 6:8],
        with_guess.model.encoder(F.pixel_unshuffle(image, 2), torch.tensor([0]))[0, 4:, 1, 3].reshape(2, 2, 2),
    )
    assert (
        without.model.encoder.out[-1].out_channels == 4 and with_guess.model.encoder.out[-1].out_channels == 4 + 2 * 4
    )


@pytest.mark.parametrize("mask_low", [-1.0, 0.0])
@pytest.mark.parametrize("t", [0, 10, 25, 39])
def test_several_guesses_are_weighed_by_bayes(t, mask_low):
    """Against the sum over all masks of 2x2 pixels that each guess can mean."""
    config = DiffusionConfig(diffusion_steps=40, noise_schedule="cosine")
    alpha_bar = np.cumprod(1 - scheduled_betas(config))[t]
    rng = np.random.default_rng(t)
    rho, mu = rng.normal(size=3), rng.uniform(0.05, 0.95, (3, 4))
    masks = np.array(list(itertools.product([0, 1], repeat=4)))
    x = np.sqrt(alpha_bar) * (mask_low + (1 - mask_low) * masks[6]) + np.sqrt(1 - alpha_bar) * rng.normal(size=4)

    log_likelihood = -((x - np.sqrt(alpha_bar) * (mask_low + (1 - mask_low) * masks)) ** 2).sum(axis=1) / (
        2 * (1 - alpha_bar)
    )
    log_mask = (masks[:, None] * np.log(mu) + (1 - masks[:, None]) * np.log(1 - mu)).sum(axis=2)  # [mask, guess]
    weights = softmax(rho + logsumexp(log_likelihood[:, None] + log_mask, axis=0))

    rho, mu, x = torch.tensor(rho), torch.tensor(mu), torch.tensor(x)
    mixture = MaskMixture(config, mask_low).double()
    guess = mixture(
        rho[None, :, None, None].expand(1, 3, 2, 2),
        mixture.bounded(mu.logit().reshape(1, 3, 2, 2)),
        x.reshape(1, 1, 2, 2),
        torch.tensor([t]),
    )
    torch.testing.assert_close(
        guess.flatten(), mask_low + (1 - mask_low) * (torch.tensor(weights) @ mu), atol=2e-6, rtol=0
    )


def test_the_image_decides_pixel_by_pixel_where_x_t_does_not():
    mixture = MaskMixture(DiffusionConfig(noise_schedule="cosine"), -1.0)
    rho, logit_mu = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    guess = mixture(rho, mixture.bounded(logit_mu), torch.randn(2, 1, 4, 4), torch.tensor([999]))
    torch.testing.assert_close(
        guess, 2 * (rho.softmax(1) * logit_mu.sigmoid()).sum(1, keepdim=True) - 1, atol=0.01, rtol=0
    )


def test_a_guess_that_is_sure_of_every_pixel_survives_what_contradicts_it():
    mixture = MaskMixture(DiffusionConfig(noise_schedule="cosine"), -1.0)
    mu = mixture.bounded(torch.full((1, 2, 8, 8), 1e4))
    guess = mixture(torch.zeros(1, 2, 8, 8), mu, -torch.ones(1, 1, 8, 8), torch.tensor([0]))
    assert guess.isfinite().all()


def test_the_mixture_knows_rescaled_timesteps():
    rho, logit_mu, x = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)
    guesses = []
    for rescale in (False, True):
        config, t = (
            DiffusionConfig(diffusion_steps=40, noise_schedule="cosine", rescale_timesteps=rescale),
            torch.tensor([17, 33]),
        )
        timesteps = create_gaussian_diffusion(config).network_timesteps(t)
        mixture = MaskMixture(config, -1.0)
        guesses.append(mixture(rho, mixture.bounded(logit_mu), x, timesteps))
    assert torch.equal(*guesses)


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_the_denoiser_sees_what_the_mixture_answers_and_adds_to_it(learn_sigma):
    segmenter = build(encoder_guesses=3, prediction="x0", learn_sigma=learn_sigma)
    image, x, t = torch.rand(2, 1, 16, 16), torch.randn(2, 1, 16, 16), torch.tensor([30])
    denoiser, seen = segmenter.model.denoiser, []
    hook = denoiser.register_forward_pre_hook(
        lambda module, inputs, named: seen.append((inputs[0], named["first"])), with_kwargs=True
    )
    output = segmenter.denoiser(image)(x, t)
    hook.remove()
    features, guesses = segmenter.model.encoder(F.pixel_unshuffle(image, 2), torch.tensor([0])).split([4, 24], dim=1)
    maps = F.pixel_shuffle(guesses, 2)
    mixture = segmenter.model.mixture
    expected = mixture(maps[:, :3], mixture.bounded(maps[:, 3:]), x, t)
    (shown, first), convolution = seen[0], denoiser.input_blocks[0][0]
    torch.testing.assert_close(F.pixel_shuffle(shown[:, :4], 2), expected)
    torch.testing.assert_close(
        denoiser.input_blocks[0](shown, torch.zeros(1, 1)) + first, convolution(torch.cat([features, shown], dim=1))
    )
    with torch.no_grad():
        added = F.pixel_shuffle(denoiser(shown, t, first=first), 2)
    torch.testing.assert_close(output[:, :1] - added[:, :1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output[:, 1:], added[:, 1:])  # the variance has no guess


def test_the_image_alone_is_asked_for_too():
    """The term of the loss is the squared error of the encoder's output alone, of the whole one where x_t is noise."""
    segmenter = build(
        encoder_guesses=3, prediction="x0", learn_sigma=False, mask_low=-1, noise_schedule="cosine", guess_weight=0.5
    )
    with torch.no_grad():
        for parameter in segmenter.model.denoiser.out[-1].parameters():
            parameter.zero_()
    image, mask, rows = torch.rand(2, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.5).float(), torch.tensor([0, 0, 1, 1])
    last, other = torch.full((4,), 39), torch.tensor([0, 5, 10, 20])
    terms = segmenter(image, mask, other, rows=rows)
    torch.testing.assert_close(terms["guess"], 0.5 * segmenter(image, mask, last, rows=rows)["mse"], rtol=0.02, atol=0)
    torch.testing.assert_close(terms["loss"], terms["mse"] + terms["guess"] + terms["kl"])
    terms["guess"].sum().backward()
    assert segmenter.model.encoder.out[-1].weight.grad.any() and all(
        p.grad is None for p in segmenter.model.denoiser.parameters()
    )
    assert "guess" not in build(encoder_guesses=3, prediction="x0")(image, mask, other, rows=rows)


def test_the_encoder_learns_from_the_first_step():
    """As built, the last convolutions are zero: gradients reach the encoder through its guesses alone."""
    for guesses in (0, 1, 3):
        more = {"prediction": "x0"} if guesses > 1 else {}
        segmenter = segmenter_of({**SHARED, "encoder_guesses": guesses, **more})
        segmenter(torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16), torch.tensor([5, 30]))["mse"].sum().backward()
        assert segmenter.model.encoder.out[-1].weight.grad.any() == (guesses > 0)


@pytest.mark.parametrize("patch, levels", [(1, (1, 1, 2, 3, 4)), (2, (1, 2, 3, 4)), (4, (2, 3, 4))])
def test_of_default_levels_those_finer_than_a_patch_fall_away(patch, levels):
    unet = UNetConfig(image_size=128, num_channels=32, num_res_blocks=1, attention_resolutions=())
    with torch.device("meta"):
        model = SharedEncoderUNet(unet, ArchitectureConfig("shared-encoder", patch), 1)
    assert model.encoder.config.channel_mult == levels and model.encoder.config.image_size == 128 // patch


@pytest.mark.parametrize("patch, levels", [(1, (1, 2, 3, 4)), (2, (2, 3, 4)), (4, (3, 4))])
def test_default_levels_follow_the_longer_side(patch, levels):
    unet = UNetConfig(image_size=(32, 64), num_channels=32, num_res_blocks=1, attention_resolutions=(16,))
    with torch.device("meta"):
        model = SharedEncoderUNet(unet, ArchitectureConfig("shared-encoder", patch, denoiser_mult=(1, 1)), 1)
    assert model.encoder.config.channel_mult == levels and model.encoder.config.size == (32 // patch, 64 // patch)


def test_both_parts_learn_and_run_in_the_precision_asked_for():
    segmenter = build()
    image, mask, t = torch.rand(2, 1, 16, 16), torch.ones(4, 1, 16, 16), torch.tensor([0, 10, 20, 39])
    segmenter(image, mask, t, rows=torch.tensor([0, 0, 1, 1]))["loss"].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in segmenter.model.parameters())
    x = torch.randn(4, 1, 16, 16)
    exact = segmenter.denoiser(image, torch.tensor([0, 0, 1, 1]))(x, t)
    segmenter.model.autocast_dtype = torch.bfloat16
    rounded = segmenter.denoiser(image, torch.tensor([0, 0, 1, 1]))(x, t)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.05 * exact.norm()  # bfloat16 keeps 8 bits
    assert segmenter.model.encoder.autocast_dtype == segmenter.model.denoiser.autocast_dtype == torch.bfloat16


def test_both_parts_are_compiled(unchecked):
    widths = []

    def backend(graph, inputs):  # a size that may change is an input too, a number
        widths.append({tuple(x.shape[:2]) for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 4})
        return graph.forward

    torch.compiler.reset()  # else the sizes that other tests compiled for have become changeable
    segmenter, rows, t = build(), torch.tensor([0, 0, 1, 1]), torch.tensor([3])
    image, x = torch.rand(2, 1, 16, 16), torch.randn(4, 1, 16, 16)
    segmenter.model.compile(backend=backend, dynamic=False)
    output = segmenter.denoiser(image, rows)(x, t)
    assert any((2, 4) in seen for seen in widths) and any(
        {(4, 1), (4, 2), (4, 32)} <= seen for seen in widths
    )  # images in patches; masks, guesses and the features' part of the first convolution
    torch.testing.assert_close(output, build().denoiser(image, rows)(x, t), atol=1e-5, rtol=1e-4)


def test_weights_without_a_guess_are_refused_by_the_flag():
    with pytest.raises(CheckpointError, match="--encoder_guesses or --feature_channels"):
        load_weights(build(), build(encoder_guesses=0).state_dict(), "old.pt")


@pytest.mark.parametrize(
    "own", [["--prediction", "v"], ["--encoder_guesses", 3, "--prediction", "x0", "--guess_weight", 1]]
)
def test_trains_and_samples_by_the_scripts(cases, tmp_path, own):
    arguments = [f"--{name}={value}" for name, value in SHARED.items()]
    more = ["--raters_per_image", 2, "--batch_size", 4, "--iterations", 2, *own]
    trained = call_script("segmentation_train", "--data_dir", cases, "--log_dir", tmp_path, *arguments, *more)
    assert trained.returncode == 0, trained.stderr
    drawn = call_script(
        "segmentation_sample",
        "--data_dir",
        cases,
        "--model_path",
        tmp_path / "savedmodel.pt",
        "--out_dir",
        tmp_path / "s",
        "--steps",
        2,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((tmp_path / "s").glob("*_samples.npz"))) == 6


def test_what_cannot_be_built_is_refused(cases, tmp_path):
    train = (
        "segmentation_train",
        "--data_dir",
        cases,
        "--log_dir",
        tmp_path,
        *[f"--{name}={value}" for name, value in SHARED.items()],
    )
    assert_refused(call_script(*train, "--patch_size", 3), "--patch_size 3")
    for size in ("16,18", "18,16"):  # 9 patches cannot be halved
        assert_refused(call_script(*train, "--image_size", size), f"--image_size {size} must be divisible into patches")
    assert_refused(call_script(*train, "--denoiser_channels", 20), "--denoiser_channels 20")
    assert_refused(call_script(*train, "--feature_channels", 0), "--feature_channels 0")
    assert_refused(call_script(*train, "--encoder_guesses", -1), "--encoder_guesses -1")
    assert_refused(
        call_script(*train, "--encoder_guesses", 2, "--prediction", "v"), "--encoder_guesses 2", "--prediction x0", "v"
    )
    assert_refused(call_script(*train, "--guess_weight", 1), "--guess_weight 1", "--encoder_guesses 2")
    assert_refused(call_script(*train, "--guess_weight", -1), "--guess_weight -1")
    assert_refused(
        call_script(*train, "--raters_per_image", 3, "--batch_size", 4), "--batch_size 4", "--raters_per_image 3"
    )
    assert_refused(
        call_script(*train, "--predict_xstart", "True", "--prediction", "v"), "--predict_xstart", "--prediction v"
    )
