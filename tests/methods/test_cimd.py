"""The trainable module: which parts learn, which inputs they see, and that it can learn."""

import pytest
import torch
from helpers import LEAST, TINY, segmenter_of

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.configs import parse_flags
from guided_diffusion.methods.stable_target import stable_target
from guided_diffusion.nn import seeded_generator
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.script_util import MODEL_CONFIGS

B = 4


def segmenter(**flags):
    torch.manual_seed(0)
    built = segmenter_of({**TINY, **flags})
    for p in built.model.out.parameters():  # zeroed at first: then the prior would see nothing
        torch.nn.init.normal_(p, std=0.1)
    return built


def batch():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(B, 1, 16, 16, generator=g)
    return image, (image > 0.5).float(), torch.tensor([0, 10, 20, 39]), torch.randn(B, 1, 16, 16, generator=g)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"learn_sigma": False},
        {"use_kl": True},
        {"predict_xstart": True},
        {"ambiguity_input": "x0"},
        {"mask_low": -1},
    ],
)
def test_terms_sum_to_the_loss(flags):
    model = segmenter(**flags)
    terms = model(*batch())
    assert all(value.shape == (B,) and torch.isfinite(value).all() for value in terms.values())
    diffusion_terms = 40 * terms["vb"] if flags.get("use_kl") else sum(terms[k] for k in ("mse", "vb") if k in terms)
    torch.testing.assert_close(terms["loss"], diffusion_terms + terms["kl"])
    assert ("vb" in terms) == (flags.get("learn_sigma", True))


@pytest.mark.parametrize("trained", [True, False])
def test_gradients_reach_the_encoders_when_they_are_trained_only(trained):
    model = segmenter(train_encoders=trained)
    model(*batch())["loss"].mean().backward()
    assert all(p.grad is not None for p in model.model.parameters())
    for encoder in (model.prior, model.posterior):
        for p in encoder.parameters():
            assert (p.grad is not None and p.grad.abs().sum() > 0) if trained else p.grad is None


@pytest.mark.parametrize("trained", [True, False])
def test_the_kl_reaches_the_unet_either_way(trained):
    model = segmenter(train_encoders=trained, kl_weight=1000.0)
    (gradient,) = torch.autograd.grad(model(*batch())["kl"].sum(), model.model.out[2].bias)
    assert gradient.abs().sum() > 0


def test_kl_weight_and_what_the_encoders_see():
    image, mask, t, noise = batch()
    light, heavy = segmenter(), segmenter(kl_weight=1.0)
    torch.testing.assert_close(
        heavy(image, mask, t, noise)["kl"], 1000 * light(image, mask, t, noise)["kl"], rtol=1e-4, atol=0
    )

    seen = {}
    for name in ("prior", "posterior"):
        getattr(heavy, name).register_forward_pre_hook(lambda m, args, name=name: seen.__setitem__(name, args))
    heavy(image, mask, t, noise)
    x_t = heavy.diffusion.q_sample(mask, t, noise)
    output = heavy.denoiser(image)(x_t, t)
    assert torch.equal(seen["posterior"][1], mask) and torch.equal(seen["prior"][0], image)
    torch.testing.assert_close(seen["prior"][1], output[:, :1])

    other = segmenter(ambiguity_input="x0", mask_low=-1)
    other.prior.register_forward_pre_hook(lambda m, args: seen.__setitem__("x0", args[1]))
    other(image, mask, t, noise)
    assert seen["x0"].min() >= 0 and seen["x0"].max() <= 1  # on the scale of masks


@pytest.mark.parametrize("flags, number", [({}, 1), ({"encoder_channels": 2}, 2), ({"encoder_channels": 3}, 3)])
def test_encoders_see_the_first_image_channels(flags, number):
    model = segmenter(image_channels=3, **flags)
    image, mask, t, noise = batch()
    seen = []
    for encoder in model.encoders:
        encoder.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    image = torch.cat([image, torch.rand(B, 2, 16, 16)], dim=1)
    model(image, mask, t, noise)
    assert len(seen) == 2 and all(torch.equal(planes, image[:, :number]) for planes in seen)
    rows = torch.tensor([1, 0, 2, 3])
    model.spaced(SamplerConfig(steps=4))(image, mask, t // 10, noise, rows)
    assert torch.equal(seen[2], image[rows, :number])


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_stable_target_is_what_the_error_is_measured_from(prediction):
    flags = {"prediction": prediction, "kl_weight": 0, "mask_low": -1}
    plain, stable = segmenter(**flags), segmenter(**flags, stable_target=True)
    image, mask, t, noise = batch()
    mask[1] = 1 - mask[0]
    t[:2], rows = 39, torch.tensor([0, 0, 1, 2])
    terms = [model(image[[0, 2, 3]], mask, t, noise, rows) for model in (plain, stable)]
    torch.testing.assert_close(terms[0]["vb"], terms[1]["vb"])  # a bound of the mask itself
    torch.testing.assert_close(terms[0]["mse"][2:], terms[1]["mse"][2:], rtol=1e-3, atol=1e-5)

    diffusion, x_0 = stable.diffusion, stable.to_x(mask)
    x_t = diffusion.q_sample(x_0, t, noise)
    implied = diffusion.predict_xstart(stable.denoiser(image[[0, 2, 3]], rows)(x_t, t), x_t, t)
    error = (implied - stable_target(diffusion, x_0, x_t, t, rows)).square().mean(dim=(1, 2, 3))
    snr = float(diffusion.alphas_cumprod[39] / (1 - diffusion.alphas_cumprod[39]))
    of_x_0 = {"x0": 1, "eps": snr, "v": snr + 1}[prediction]
    torch.testing.assert_close(terms[1]["mse"][:2], of_x_0 * error[:2], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(terms[0]["mse"][:2], terms[1]["mse"][:2], rtol=1e-5)

    alone = [model(image, mask, t, noise)["loss"] for model in (plain, stable)]
    assert torch.equal(*alone)  # a mask of each image: its own target


def test_network_sees_rescaled_timesteps_in_training():
    model = segmenter(rescale_timesteps=True)
    seen = []
    model.model.register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    model(*batch())
    assert seen[0].tolist() == [0, 250, 500, 975]


def test_mask_scales_are_inverse():
    model = segmenter(mask_low=-1)
    mask = torch.tensor([0.0, 0.25, 1.0])
    assert model.to_x(mask).tolist() == [-1, -0.5, 1]
    assert torch.equal(model.to_mask(model.to_x(mask)), mask)
    with pytest.raises(ConfigError, match="mask_low"):
        segmenter(mask_low=1)


def test_a_sample_depends_on_its_own_generator_alone():
    model = segmenter(timestep_respacing="5").eval()
    image = batch()[0]

    def draw(rows):
        with torch.inference_mode():
            return model.sample_masks(image[rows], [seeded_generator(0, "case", row) for row in rows])

    whole = draw([0, 1, 2, 3])
    torch.testing.assert_close(draw([2]), whole[2:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(draw([3, 1]), whole[[3, 1]], rtol=0, atol=1e-5)
    assert not torch.allclose(whole[0], draw([1])[0])


@pytest.mark.usefixtures("unchecked")
def test_overfits_one_image_with_one_mask():
    torch.manual_seed(0)
    model = segmenter_of(
        parse_flags(
            {**LEAST, "predict_xstart": True, "mask_low": -1, "learn_sigma": False, "timestep_respacing": "10"},
            *MODEL_CONFIGS,
        )
    )
    image = torch.rand(1, 1, 8, 8)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 1:5] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(100):
        t = torch.randint(0, 10, (4,))
        loss = model(image.expand(4, -1, -1, -1), mask.expand(4, -1, -1, -1), t)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.05 * sum(losses[:20])
    with torch.inference_mode():
        samples = model.eval().sample_masks(image.expand(16, -1, -1, -1), [seeded_generator(i) for i in range(16)])
    assert ((samples > 0.5) == (mask > 0.5)).float().mean() > 0.995
