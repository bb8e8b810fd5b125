"""The shared encoder: an image is encoded once, and the denoiser sees all of it and of x_t."""

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, assert_refused, call_script, nonzero

from guided_diffusion.checkpoint import CheckpointError, load_weights
from guided_diffusion.command_line import parse_flags
from guided_diffusion.script_util import MODEL_CONFIGS, create_segmenter
from guided_diffusion.shared_encoder import ArchitectureConfig, SharedEncoderUNet
from guided_diffusion.unet import UNetConfig

SHARED = {**TINY, "architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1,1", "dropout": 0.0}


def build(**flags):
    torch.manual_seed(0)
    return nonzero(create_segmenter(parse_flags({**SHARED, **flags}, *MODEL_CONFIGS))).eval()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_every_pixel_of_image_and_mask_is_seen(patch):
    """The output in one corner changes with the image and the mask in every patch near it, and with t."""
    segmenter = build(patch_size=patch)
    image, x, t = torch.rand(1, 1, 16, 16, requires_grad=True), torch.randn(1, 1, 16, 16, requires_grad=True), torch.tensor([3])
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
    with_guess, without = build(), build(encoder_guess=False)
    image, x, t = torch.rand(1, 1, 16, 16), torch.randn(1, 1, 16, 16), torch.tensor([3])
    output = with_guess.denoiser(image)(x, t)
    with torch.no_grad():
        for parameter in with_guess.model.denoiser.out[-1].parameters():
            parameter.zero_()
    guess = with_guess.denoiser(image)(x, t)
    assert guess.abs().min() > 0 and torch.equal(guess, with_guess.denoiser(image)(-x, t - 1))  # of the image alone
    assert not torch.equal(guess, output)
    torch.testing.assert_close(guess[0, :, 2:4, 6:8], with_guess.model.encoder(F.pixel_unshuffle(image, 2), torch.tensor([0]))[0, 4:, 1, 3].reshape(2, 2, 2))
    assert without.model.encoder.out[-1].out_channels == 4 and with_guess.model.encoder.out[-1].out_channels == 4 + 2 * 4


def test_the_encoder_learns_from_the_first_step():
    """As built, the last convolutions are zero: gradients reach the encoder through its guess alone."""
    for guess in (True, False):
        segmenter = create_segmenter(parse_flags({**SHARED, "encoder_guess": guess}, *MODEL_CONFIGS))
        segmenter(torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16), torch.tensor([5, 30]))["mse"].sum().backward()
        assert segmenter.model.encoder.out[-1].weight.grad.any() == guess


@pytest.mark.parametrize("patch, levels", [(1, (1, 1, 2, 3, 4)), (2, (1, 2, 3, 4)), (4, (2, 3, 4))])
def test_of_default_levels_those_finer_than_a_patch_fall_away(patch, levels):
    unet = UNetConfig(image_size=128, num_channels=32, num_res_blocks=1, attention_resolutions=())
    with torch.device("meta"):
        model = SharedEncoderUNet(unet, ArchitectureConfig("shared-encoder", patch), 1)
    assert model.encoder.config.channel_mult == levels and model.encoder.config.image_size == 128 // patch


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


def test_both_parts_are_compiled():
    widths = []

    def backend(graph, inputs):  # a size that may change is an input too, a number
        widths.append({tuple(x.shape[:2]) for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 4})
        return graph.forward

    torch.compiler.reset()  # else the sizes that other tests compiled for have become changeable
    segmenter, rows, t = build(), torch.tensor([0, 0, 1, 1]), torch.tensor([3])
    image, x = torch.rand(2, 1, 16, 16), torch.randn(4, 1, 16, 16)
    segmenter.model.compile(backend=backend, dynamic=False)
    output = segmenter.denoiser(image, rows)(x, t)
    assert any((2, 4) in seen for seen in widths) and any((4, 16) in seen for seen in widths)  # patches; patches, features and guess
    torch.testing.assert_close(output, build().denoiser(image, rows)(x, t), atol=1e-5, rtol=1e-4)


def test_weights_without_a_guess_are_refused_by_the_flag():
    with pytest.raises(CheckpointError, match="--encoder_guess or --feature_channels"):
        load_weights(build(), build(encoder_guess=False).state_dict(), "old.pt")


def test_trains_and_samples_by_the_scripts(cases, tmp_path):
    arguments = [f"--{name}={value}" for name, value in SHARED.items()]
    more = ["--raters_per_image", 2, "--batch_size", 4, "--iterations", 2, "--prediction", "v"]
    trained = call_script("segmentation_train", "--data_dir", cases, "--log_dir", tmp_path, *arguments, *more)
    assert trained.returncode == 0, trained.stderr
    drawn = call_script("segmentation_sample", "--data_dir", cases, "--model_path", tmp_path / "savedmodel.pt", "--out_dir", tmp_path / "s", "--steps", 2)
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((tmp_path / "s").glob("*_samples.npz"))) == 6


def test_what_cannot_be_built_is_refused(cases, tmp_path):
    train = ("segmentation_train", "--data_dir", cases, "--log_dir", tmp_path, *[f"--{name}={value}" for name, value in SHARED.items()])
    assert_refused(call_script(*train, "--patch_size", 3), "--patch_size 3")
    assert_refused(call_script(*train, "--denoiser_channels", 20), "--denoiser_channels 20")
    assert_refused(call_script(*train, "--feature_channels", 0), "--feature_channels 0")
    assert_refused(call_script(*train, "--raters_per_image", 3, "--batch_size", 4), "--batch_size 4", "--raters_per_image 3")
    assert_refused(call_script(*train, "--predict_xstart", "True", "--prediction", "v"), "--predict_xstart", "--prediction v")
