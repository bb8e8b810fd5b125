"""Several classes in every method: shapes and gradients, likelihoods written out, both classes of an image learnt."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import LEAST, TINY, nonzero
from scipy.special import logsumexp, softmax

from guided_diffusion.data.config import DataConfig, classes_of
from guided_diffusion.flags.classes import parse_classes
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.gaussian_diffusion import DiffusionConfig, scheduled_betas
from guided_diffusion.lidcloader import Case
from guided_diffusion.losses import class_cross_entropy, class_probabilities
from guided_diffusion.methods.mask_mixture import MaskMixture
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.methods.shared_encoder import SharedEncoderUNet
from guided_diffusion.nn import seeded_generator
from guided_diffusion.sampling.config import SampleConfig
from guided_diffusion.sampling.draw import draw_ensembles
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.script_util import create_segmenter

SHARED = {**TINY, "architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1,1", "mask_low": -1}
PLAIN = {"image_size": 16, "image_channels": 1, "num_filters": "8,16", "no_convs_per_block": 2, "latent_dim": 2}
METHODS = {
    "cimd": {**TINY, "method": "cimd"},
    "cimd-x0": {**TINY, "method": "cimd", "ambiguity_input": "x0", "prediction": "v"},
    "implicit-ensemble": {**TINY, "method": "implicit-ensemble", "prediction": "x0"},
    "one guess": {**SHARED, "method": "cimd", "prediction": "x0"},
    "guesses": {
        **SHARED,
        "method": "implicit-ensemble",
        "prediction": "x0",
        "encoder_guesses": 3,
        "guess_weight": 0.5,
        "stable_target": True,
        "learn_sigma": False,
    },
    "prob-unet": {**PLAIN, "method": "prob-unet"},
    "ssn": {**PLAIN, "method": "ssn", "cov_rank": 3},
    "mc-dropout": {**PLAIN, "method": "mc-dropout", "dropout": 0.3},
    "unet": {**PLAIN, "method": "unet"},
}
KINDS = {"exclusive": "a,b,c", "regions": "whole=1+2,core=2"}
ROWS = torch.tensor([0, 0, 1, 1])


def build(flags, classes, **more):
    torch.manual_seed(0)
    given = {"timestep_respacing": "10", **flags, "classes": classes, **more}
    return nonzero(create_segmenter(configs_from_flags(given, DataConfig, *MODEL_CONFIGS)))


def masks_of(kind, count, size=16, seed=0):
    """Random masks of the classes of KINDS; one pixel in four is background."""
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(4, (count, size, size), generator=g)
    if kind == "exclusive":
        return torch.nn.functional.one_hot(values, 4).movedim(-1, 1)[:, 1:].float()
    return torch.stack([values > 0, values > 1], dim=1).float()


def inputs_of(model, kind):
    g = torch.Generator().manual_seed(1)
    image, masks = torch.rand(2, 1, 16, 16, generator=g), masks_of(kind, 4)
    t = torch.randint(model.num_timesteps, (4,), generator=g)
    return image, masks, t, torch.randn(4, *model.noise_shape((16, 16)), generator=g), ROWS


def draw(model, image, count=4, rows=ROWS):
    with torch.inference_mode():
        generators = [seeded_generator(k) for k in range(count)]
        return model.eval().sample_masks(image, generators, SamplerConfig(), None, rows)


def test_configs_without_a_data_config_have_one_class():
    assert not classes_of(configs_from_flags({}, *MODEL_CONFIGS)).several
    assert classes_of(configs_from_flags({"classes": "disc,cup"}, DataConfig)).names == ("disc", "cup")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_samples_several_classes(method, kind):
    """The loss of a batch falls in a few steps, gradients reach every weight, and each class has its own samples."""
    model = build(METHODS[method], KINDS[kind])
    K = model.classes.count
    inputs, losses = inputs_of(model, kind), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(6):
        torch.manual_seed(0)
        terms = model(*inputs)
        assert terms.keys() <= {"loss", *model.terms} and all(value.shape == (4,) for value in terms.values())
        optimizer.zero_grad()
        terms["loss"].mean().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimizer.step()
        losses.append(float(terms["loss"].detach().mean()))
    assert losses[-1] < losses[0] and np.isfinite(losses).all()

    samples = draw(model, inputs[0])
    assert samples.shape == (4, K, 16, 16) and samples.isfinite().all()
    assert all((samples[:, i] - samples[:, j]).abs().max() > 1e-4 for i, j in itertools.combinations(range(K), 2))
    if method in ("prob-unet", "ssn", "mc-dropout", "unet"):  # probabilities
        assert samples.min() >= 0 and samples.max() <= 1
        assert kind == "regions" or samples.sum(dim=1).max() <= 1 + 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_fewer_steps_keep_the_classes(method):
    model = build(METHODS[method], KINDS["exclusive"])
    spaced = model.spaced(SamplerConfig(steps=1))
    assert spaced.classes == model.classes == parse_classes(["a", "b", "c"])
    learns_sigma = METHODS[method].get("learn_sigma", False)
    assert spaced.one_call(torch.rand(2, 1, 16, 16)).shape == (2, 6 if learns_sigma else 3, 16, 16)


def test_probabilities_and_cross_entropies_are_those_of_the_distributions():
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 4, generator=g)
    exclusive, regions = parse_classes(["a", "b", "c"]), parse_classes(["a=1+2+3", "b=2+3", "c=3"])
    masks = masks_of("exclusive", 2, 4)
    p, q = class_probabilities(logits, exclusive), class_probabilities(logits, regions)
    found, independent = (class_cross_entropy(logits, masks, classes) for classes in (exclusive, regions))
    for b, y, x in itertools.product(range(2), range(4), range(4)):
        at = [float(value) for value in logits[b, :, y, x]]
        total = 1 + sum(map(math.exp, at))
        np.testing.assert_allclose(p[b, :, y, x], [math.exp(value) / total for value in at], rtol=1e-5)
        np.testing.assert_allclose(q[b, :, y, x], [1 / (1 + math.exp(-value)) for value in at], rtol=1e-5)
        chosen = [math.exp(value) for value, m in zip(at, masks[b, :, y, x], strict=True) if m]
        likelihood = (chosen[0] if chosen else 1) / total
        assert float(found[b, 0, y, x]) == pytest.approx(-math.log(likelihood), rel=1e-4, abs=1e-5)
        each = [
            math.log(1 / (1 + math.exp(-value)) if m else 1 / (1 + math.exp(value)))
            for value, m in zip(at, masks[b, :, y, x], strict=True)
        ]
        assert float(independent[b, 0, y, x]) == pytest.approx(-sum(each), rel=1e-4)


@pytest.mark.parametrize("names", [["disc", "cup"], ["whole=1+2", "core=2"]], ids=["exclusive", "regions"])
@pytest.mark.parametrize("mask_low", [-1.0, 0.0])
@pytest.mark.parametrize("t", [0, 10, 25, 39])
def test_guesses_of_several_classes_are_weighed_by_bayes(t, mask_low, names):
    """Two guesses, two classes, two pixels: against the sum over every pair of values that the pixels can have."""
    config, classes = DiffusionConfig(diffusion_steps=40, noise_schedule="cosine"), parse_classes(names)
    alpha_bar = np.cumprod(1 - scheduled_betas(config))[t]
    rng = np.random.default_rng(t)
    rho, logits = rng.normal(size=2), rng.normal(size=(2, 2, 2))  # [M], [M, K, pixels]
    if classes.exclusive:
        values = np.array([[0, 0], [1, 0], [0, 1]])
        p = np.exp(logits) / (1 + np.exp(logits).sum(axis=1, keepdims=True))
        p = 1e-4 + (1 - 3e-4) * p  # the least probability of each value
        of_value = np.stack([1 - p.sum(axis=1), p[:, 0], p[:, 1]], axis=1)  # [M, values, pixels]
    else:
        values = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
        p = 1 / (1 + np.exp(-logits))
        of_value = np.stack([np.where(v[:, None], p, 1 - p).prod(axis=1) for v in values], axis=1)
    a, low = math.sqrt(alpha_bar), mask_low
    true = values[[1, 2]].T  # [K, pixels]
    x = a * (low + (1 - low) * true) + math.sqrt(1 - alpha_bar) * rng.normal(size=(2, 2))

    terms = np.full((2, len(values) ** 2), -np.inf)
    for m, (n, (i, j)) in itertools.product(range(2), enumerate(itertools.product(range(len(values)), repeat=2))):
        mean = a * (low + (1 - low) * np.stack([values[i], values[j]], axis=1))
        density = -((x - mean) ** 2).sum() / (2 * (1 - alpha_bar))
        terms[m, n] = density + math.log(of_value[m, i, 0]) + math.log(of_value[m, j, 1])
    expected = np.einsum("m,mkp->kp", softmax(rho + logsumexp(terms, axis=1)), p)

    as_maps = torch.tensor(logits).reshape(1, 4, 1, 2)
    mixture = MaskMixture(config, mask_low, classes).double()
    guess = mixture(
        torch.tensor(rho)[None, :, None, None].expand(1, 2, 1, 2),
        mixture.bounded(as_maps),
        torch.tensor(x)[None, :, None],
        torch.tensor([t]),
    )
    np.testing.assert_allclose(guess[0, :, 0], low + (1 - low) * expected, atol=5e-6, rtol=0)


def test_without_x_t_the_guesses_are_weighed_by_the_image_alone():
    mixture = MaskMixture(DiffusionConfig(noise_schedule="cosine"), -1.0, parse_classes(["a", "b", "c"]))
    rho, logits = torch.randn(2, 3, 4, 4), torch.randn(2, 9, 4, 4)
    guess = mixture(rho, mixture.bounded(logits), torch.randn(2, 3, 4, 4), torch.tensor([999]))
    torch.testing.assert_close(guess, mixture.before(rho, logits), atol=0.01, rtol=0)
    p = torch.cat([torch.zeros(2, 3, 1, 4, 4), logits.unflatten(1, (3, 3))], dim=2).softmax(2)[:, :, 1:]
    expected = 2 * (rho.softmax(1)[:, :, None] * p).sum(1) - 1
    torch.testing.assert_close(mixture.before(rho, logits), expected)


def test_a_sure_guess_of_several_classes_survives_what_contradicts_it():
    mixture = MaskMixture(DiffusionConfig(noise_schedule="cosine"), -1.0, parse_classes(["a", "b"]))
    sure = torch.tensor([1e4, -1e4, 1e4, -1e4])[None, :, None, None].expand(1, 4, 8, 8).clone().requires_grad_()
    x = torch.stack([-torch.ones(8, 8), torch.ones(8, 8)])[None]
    guess = mixture(torch.zeros(1, 2, 8, 8), mixture.bounded(sure), x, torch.tensor([0]))
    guess.sum().backward()
    assert guess.isfinite().all() and sure.grad.isfinite().all()


def test_ssn_of_several_classes_is_the_likelihood_written_out(monkeypatch):
    monkeypatch.setattr("guided_diffusion.methods.baselines.ssn.MC_SAMPLES", 5)
    model = build(METHODS["ssn"], "a,b,c")
    image, masks, noise = torch.rand(2, 1, 4, 4), masks_of("exclusive", 2, 4), torch.randn(2, 5, 3 + 3 * 16)
    gaussian = [x.double() for x in model.gaussian(image)]
    nll = []
    for b in range(2):
        likelihood = torch.zeros((), dtype=torch.float64)
        for m in range(5):
            own, common = noise[b, m, 3:].double(), noise[b, m, :3].double()
            logits = (gaussian[0][b] + gaussian[2][b] @ common + gaussian[1][b] * own).reshape(3, 16)
            p = torch.cat([torch.zeros(1, 16), logits]).softmax(0)
            chosen = torch.cat([1 - masks[b].sum(0, keepdim=True), masks[b]]).reshape(4, 16)
            likelihood += (p * chosen).sum(0).prod() / 5
        nll.append(-likelihood.log().item())
    torch.testing.assert_close(model(image, masks, None, noise)["nll"], torch.tensor(nll), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method, reduce", [("prob-unet", torch.sum), ("unet", torch.mean)])
def test_the_cross_entropy_is_summed_over_regions_and_over_pixels_as_of_one_class(method, reduce, kind):
    model = build(METHODS[method], KINDS[kind]).eval()
    image, masks, t, noise, _ = inputs_of(model, kind)
    image, masks, noise = image[:1], masks[:1], noise[:1]
    if method == "unet":
        logits = model.head(model.model(image))
    else:
        q = model.posterior(image, masks)
        logits = model.combiner(model.model(image), q.mean + q.stddev * noise)
    p = class_probabilities(logits, model.classes)
    if kind == "exclusive":
        background = 1 - masks.sum(1, keepdim=True)
        pixels = -torch.log(torch.where(background > 0, 1 - p.sum(1, keepdim=True), (p * masks).sum(1, keepdim=True)))
    else:
        pixels = -torch.log(torch.where(masks > 0, p, 1 - p)).sum(1)
    expected = reduce(pixels)
    torch.testing.assert_close(model(image, masks, None, noise)["bce"], expected[None], rtol=1e-4, atol=1e-4)


def two_classes(size=8):
    """An image, and its mask: a disc around a cup, as squares; the classes touch."""
    disc, cup = torch.zeros(size, size), torch.zeros(size, size)
    disc[1:7, 1:6], cup[3:5, 2:4] = 1, 1
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    return image, torch.stack([disc - cup, cup])[None]


@pytest.mark.parametrize(
    "method, steps, more",
    [
        ("guesses", 150, {**LEAST, "denoiser_mult": "1", "learn_sigma": False, "image_size": 8}),
        ("implicit-ensemble", 200, {**LEAST, "mask_low": -1, "learn_sigma": False}),
        ("prob-unet", 200, {"image_size": 8, "no_convs_per_block": 1}),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_both_classes_of_one_image_are_recovered(method, steps, more):
    """The samples, read off with the implied background, are the mask."""
    model = build({**METHODS[method], **more}, "disc,cup")
    image, mask = two_classes()
    rows = torch.zeros(4, dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        t = torch.randint(model.num_timesteps, (4,))
        loss = model(image, mask.expand(4, -1, -1, -1), t, torch.randn(4, *model.noise_shape((8, 8))), rows)["loss"]
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    samples = draw(model, image, 16, torch.zeros(16, dtype=torch.long))
    read = torch.cat([1 - samples.sum(1, keepdim=True), samples], dim=1).argmax(1)
    expected = torch.cat([1 - mask.sum(1, keepdim=True), mask], dim=1).argmax(1)
    assert (read == expected).float().mean() > 0.99
    for k in (1, 2):
        assert (read[:, expected[0] == k] == k).float().mean() > 0.95


@pytest.mark.parametrize("names, shape", [("", (3, 16, 16)), ("cup", (3, 16, 16)), ("a,b,c", (3, 3, 16, 16))])
def test_ensembles_have_an_axis_of_classes_only_for_several(names, shape):
    """Each mask is a function of its case and number, whatever the batch."""
    model = build(METHODS["unet"], names).eval()
    raters = torch.zeros(2, *shape[1:])
    cases = [Case(f"case{k}", torch.rand(1, 16, 16), raters) for k in range(2)]
    drawn = []
    for size in (1, 4):
        config = SampleConfig(num_ensemble=3, batch_size=size)
        drawn.append([samples for _, samples in draw_ensembles(model, cases, [0, 1], config, SamplerConfig())])
    for one, four in zip(*drawn, strict=True):
        assert one.shape == shape and one.dtype == np.float32
        np.testing.assert_allclose(one, four, atol=1e-5)


@pytest.mark.parametrize("names", ["", "a,b,c"])
@pytest.mark.parametrize("method", METHODS)
def test_what_depends_on_an_image_alone_is_computed_once(method, names, monkeypatch):
    """Over all batches of its masks, which are the same as without it."""
    model = nonzero(build(METHODS[method], names)).eval()
    raters = torch.zeros(1, 16, 16) if model.classes.count == 1 else torch.zeros(1, model.classes.count, 16, 16)
    cases, read, encoded = [Case(f"case{k}", torch.rand(1, 16, 16), raters) for k in range(3)], [], []

    class Cases:
        def __getitem__(self, index):
            read.append(index)
            return cases[index]

    config, sampler = SampleConfig(num_ensemble=5, batch_size=2), SamplerConfig(steps=2, tta="mirror")
    model = model.spaced(sampler)
    draws = draw_ensembles(model, Cases(), [0, 1, 2], config, sampler)
    kept = [samples for _, samples in draws]
    assert read == [0, 1, 2]
    encode = model.encode

    def forgets(image, how=None):  # baselines call it themselves, without `how`
        encoded.append(len(image) if how else 0)
        return () if how else encode(image)

    monkeypatch.setattr(model, "encode", forgets)
    anew = [samples for _, samples in draw_ensembles(model, cases, [0, 1, 2], config, sampler)]
    assert sum(encoded) == 3
    np.testing.assert_allclose(kept, anew, atol=1e-4)
    calls, image = [], torch.stack([case.image for case in cases])
    monkeypatch.undo()
    with torch.inference_mode():
        known = model.encode(image, sampler)
        assert all(len(rows) == 3 for rows in known)
        network = model.model.encoder if isinstance(model.model, SharedEncoderUNet) else model.model
        network.register_forward_pre_hook(lambda *_: calls.append(1))
        generators = [seeded_generator(k) for k in range(3)]
        model.sample_masks(image, generators, sampler, None, torch.arange(3), known)
    calls_of_each_mask = {"cimd": 4, "cimd-x0": 4, "implicit-ensemble": 4, "mc-dropout": 1}
    assert len(calls) == calls_of_each_mask.get(method, 0)
