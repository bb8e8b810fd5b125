"""The numbers of the published system, at the tolerances that hold from one machine to another."""

import json

import numpy as np
import pytest
import torch
from helpers import GOLDEN, golden, seeded_weights

from guided_diffusion import losses
from guided_diffusion.distribution import AxisAlignedConvGaussian, kl_divergence
from guided_diffusion.flags.configs import pick_flags
from guided_diffusion.methods.cimd import AmbiguousSegmenter
from guided_diffusion.methods.registry import PRESETS
from guided_diffusion.nn import timestep_embedding
from guided_diffusion.respace import space_timesteps
from guided_diffusion.sampling import samplers
from guided_diffusion.script_util import create_model_and_diffusion
from guided_diffusion.unet import UNetConfig, UNetModel


def build(case):
    model, diffusion, _, _ = create_model_and_diffusion(**case["flags"])
    return seeded_weights(model, case["weights_seed"]).eval(), diffusion


def encoders(arrays, config):
    pair = []
    for name in ("prior", "posterior"):
        encoder = AxisAlignedConvGaussian(**config, posterior=name == "posterior")
        prefix = f"{name}_state/"
        encoder.load_state_dict({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
        pair.append(encoder)
    return pair


@pytest.mark.parametrize("name", ["unet_paperlike", "unet_scale_shift_updown"])
def test_unet(name):
    arrays, case = golden(name)
    model, _ = build(case)
    with torch.no_grad():
        out = model(arrays["x"], arrays["t"])
    torch.testing.assert_close(out, arrays["out"], rtol=0, atol=2e-5)


def test_paper_model_has_the_published_parameters():
    stored = json.loads((GOLDEN / "paper_model_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        model = UNetModel(UNetConfig(**pick_flags(PRESETS["cimd"], UNetConfig)), out_channels=2)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == stored["state_dict"]
    assert list(shapes) == list(stored["state_dict"])  # optimizer states count parameters in this order
    assert sum(p.numel() for p in model.parameters()) == stored["params"] == 85_603_842


def test_encoders():
    arrays, case = golden("encoders")
    prior, posterior = encoders(arrays, case)
    p = prior(arrays["image"], arrays["prior_mask"])
    q = posterior(arrays["image"], arrays["posterior_mask"])
    for name, gaussian in (("prior", p), ("posterior", q)):
        torch.testing.assert_close(gaussian.mean, arrays[f"{name}_mu"], rtol=0, atol=1e-5)
        torch.testing.assert_close(gaussian.stddev, arrays[f"{name}_sigma"], rtol=0, atol=1e-5)
    for kl in (kl_divergence(q, p), torch.distributions.kl_divergence(q, p)):
        torch.testing.assert_close(kl, arrays["kl"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules(schedule):
    arrays, _ = golden(f"schedule_{schedule}_1000")
    diffusion = create_model_and_diffusion(
        noise_schedule=schedule, image_size=16, num_channels=32, channel_mult="1", num_res_blocks=1
    )[1]
    for name, values in arrays.items():
        np.testing.assert_allclose(getattr(diffusion, name), values.numpy(), rtol=1e-12, atol=0, err_msg=name)


def test_space_timesteps():
    for key, kept in json.loads((GOLDEN / "space_timesteps.json").read_text()).items():
        T, spec = key.split("|")
        assert sorted(space_timesteps(int(T), spec)) == kept, key


def test_timestep_embedding():
    arrays, _ = golden("timestep_embedding")
    for dim in (32, 33):
        torch.testing.assert_close(timestep_embedding(arrays["t"], dim), arrays[f"e{dim}"], rtol=0, atol=1e-6)


def test_likelihood_terms():
    a, _ = golden("losses")
    kl = losses.normal_kl(a["mean1"], a["logvar1"], a["mean2"], a["logvar2"])
    ll = losses.discretized_gaussian_log_likelihood(a["x"], a["means"], a["log_scales"])
    torch.testing.assert_close(kl, a["kl"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ll, a["ll"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["train_eps_learnsigma", "train_eps_learnsigma_rescaled"])
def test_training_terms_and_gradients(name):
    arrays, case = golden(name)
    model, diffusion = build(case)
    segmenter = AmbiguousSegmenter(model.train(), diffusion, *encoders(arrays, case["encoder"]))
    image = arrays["image"].expand(-1, 4, -1, -1)
    terms = segmenter(image, arrays["mask"], arrays["t"], arrays["noise"])
    x_t = diffusion.q_sample(arrays["mask"], arrays["t"], arrays["noise"])
    output = segmenter.denoiser(image)(x_t, diffusion.network_timesteps(arrays["t"]))
    torch.testing.assert_close(output[:, :1], arrays["model_output"], rtol=0, atol=2e-5)
    for term in ("mse", "vb", "kl", "loss"):
        torch.testing.assert_close(terms[term].double(), arrays[f"terms/{term}"].double(), rtol=1e-4, atol=0)

    terms["loss"].mean().backward()
    norms = torch.stack([p.grad.norm() for p in model.parameters()])
    assert [n for n, _ in model.named_parameters()] == case["grad_norm_names"]
    expected = arrays["grad_norms"].float()
    rounding = expected < 1e-4
    torch.testing.assert_close(norms[~rounding], expected[~rounding], rtol=1e-4, atol=0)
    torch.testing.assert_close(norms[rounding], expected[rounding], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sample_ddpm_50", "sample_ddpm_respaced_5of50", "sample_ddim_eta0"])
def test_samples(name):
    arrays, case = golden(name)
    model, diffusion = build(case)
    image = arrays["image"].expand(-1, 4, -1, -1)
    chain = samplers.sample_loop(
        lambda x, t: model(torch.cat([image, x], dim=1), t),
        diffusion,
        arrays["x_T"],
        "ddpm" if case["eta"] is None else "ddim",
        case["eta"] or 0.0,
        lambda k, x: arrays["noises"][k],
    )
    for _, x, x_0 in chain:
        pass
    torch.testing.assert_close(x, arrays["sample"], rtol=0, atol=1e-3)
    torch.testing.assert_close(x_0, arrays["pred_xstart_last"], rtol=0, atol=1e-3)
