"""The golden cases of tests/golden on a device, with tolerances for kernels other than the CPU's."""

import os
import sys

import torch
from running import ROOT

from guided_diffusion.distribution import AxisAlignedConvGaussian
from guided_diffusion.methods.cimd import AmbiguousSegmenter
from guided_diffusion.sampling import samplers
from guided_diffusion.script_util import create_model_and_diffusion
from guided_diffusion.system.device import allow_tf32

from .record import require

UNETS = ("unet_paperlike", "unet_scale_shift_updown")
SAMPLES = ("sample_ddpm_50", "sample_ddpm_respaced_5of50", "sample_ddim_eta0")
TRAINING = ("train_eps_learnsigma", "train_eps_learnsigma_rescaled")
# Largest difference of the U-Net's output and of samples; largest relative difference of loss terms and gradients
TOLERANCES = {"unet": 1e-4, "samples": 5e-3, "terms": 1e-3, "gradients": 1e-3}


def helpers():
    """Load tests/helpers.py, which reads the cases and fills the weights."""
    folder = os.path.join(ROOT, "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    import helpers

    return helpers


def load(name, device):
    """(arrays on the device, {flags, ...}, U-Net, diffusion) of a case."""
    arrays, case = helpers().golden(name)
    model, diffusion, *_ = create_model_and_diffusion(**case["flags"])
    model = helpers().seeded_weights(model, case["weights_seed"]).eval().to(device)
    return {key: value.to(device) for key, value in arrays.items()}, case, model, diffusion


@torch.no_grad()
def unet_error(name, device):
    arrays, _, model, _ = load(name, device)
    return float((model(arrays["x"], arrays["t"]) - arrays["out"]).abs().max())


@torch.no_grad()
def sample_error(name, device):
    arrays, case, model, diffusion = load(name, device)
    image = arrays["image"].expand(-1, 4, -1, -1)
    eta = case["eta"]
    x = samplers.sample(
        lambda x, t: model(torch.cat([image, x], dim=1), t),
        diffusion,
        arrays["x_T"],
        "ddpm" if eta is None else "ddim",
        eta or 0.0,
        lambda k, x: arrays["noises"][k],
    )
    return float((x - arrays["sample"]).abs().max())


def training_errors(name, device):
    """(largest relative difference of a loss term, that of a gradient norm, ignoring pure rounding errors)."""
    arrays, case, model, diffusion = load(name, device)
    encoders = []
    for title in ("prior", "posterior"):
        encoder = AxisAlignedConvGaussian(**case["encoder"], posterior=title == "posterior")
        prefix = f"{title}_state/"
        encoder.load_state_dict(
            {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        )
        encoders.append(encoder.to(device))
    segmenter = AmbiguousSegmenter(model.train(), diffusion, *encoders)
    terms = segmenter(arrays["image"].expand(-1, 4, -1, -1), arrays["mask"], arrays["t"], arrays["noise"])
    of_terms = max(
        float(((terms[term] - arrays[f"terms/{term}"]) / arrays[f"terms/{term}"]).abs().max())
        for term in ("mse", "vb", "kl", "loss")
    )
    terms["loss"].mean().backward()
    norms, expected = torch.stack([p.grad.norm() for p in model.parameters()]), arrays["grad_norms"].float()
    counted = expected >= 1e-4
    return of_terms, float(((norms - expected) / expected)[counted].abs().max())


def check_golden(add, device, samples=SAMPLES):
    """Add the largest differences; CheckFailed names those beyond TOLERANCES."""
    allow_tf32(False)
    add(tolerances=TOLERANCES)
    found = {name: ("unet", unet_error(name, device)) for name in UNETS}
    found |= {name: ("samples", sample_error(name, device)) for name in samples}
    for name in TRAINING:
        of_terms, of_gradients = training_errors(name, device)
        found |= {f"{name} terms": ("terms", of_terms), f"{name} gradients": ("gradients", of_gradients)}
    add(**{name: error for name, (_, error) in found.items()})
    beyond = [f"{name}: {error:.2e}" for name, (kind, error) in found.items() if not error <= TOLERANCES[kind]]
    require(not beyond, f"beyond the tolerances: {', '.join(beyond)}")
