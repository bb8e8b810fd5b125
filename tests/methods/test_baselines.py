"""The baselines: layers as described, explicit losses, ensembles that show both of two opposite answers."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, assert_refused, call_script, nonzero, segmenter_of
from torch.distributions import LowRankMultivariateNormal

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.rules import check_rules
from guided_diffusion.methods.baselines.plain_unet import PlainUNet
from guided_diffusion.methods.registry import MODEL_CONFIGS, PRESETS, foreign_flags
from guided_diffusion.nn import seeded_generator
from guided_diffusion.sampling.protocol import Segmenter
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.script_util import load_segmenter
from guided_diffusion.training.config import TrainConfig

SMALL = {"image_size": 16, "image_channels": 1, "num_filters": (8, 16), "no_convs_per_block": 2, "latent_dim": 2}
METHODS = {
    "prob-unet": {},
    "ssn": {"cov_rank": 3},
    "mc-dropout": {"dropout": 0.3},
    "unet": {},
    "implicit-ensemble": {
        **TINY,
        "predict_xstart": True,
        "mask_low": -1,
        "learn_sigma": False,
        "timestep_respacing": "10",
    },
    "cimd": {**TINY, "timestep_respacing": "10"},
}
BASELINES = ("prob-unet", "ssn", "mc-dropout", "unet")


def build(method, seed=0, **more):
    torch.manual_seed(seed)
    return segmenter_of({**SMALL, **METHODS[method], "method": method, **more})


def conv(i, o, size):
    return i * o * size**2 + o


@pytest.mark.parametrize("size", [(8, 16), (15, 22), (2, 9), (1, 3)])
@pytest.mark.parametrize("method", BASELINES)
def test_sides_may_differ_and_need_not_be_halved(method, size):
    model = build(method, image_size=size, num_filters=(4, 4, 4, 4)).eval()
    image, noise = torch.rand(2, 1, *size), torch.randn(2, *model.noise_shape(size))
    assert model(image, torch.ones(2, 1, *size), None, noise)["loss"].isfinite().all()
    assert model.sample_masks(image, [seeded_generator(k) for k in range(2)]).shape == (2, 1, *size)


def test_ssn_draws_each_pixel_about_the_mean_of_its_place():
    model = build("ssn", image_size=(8, 16)).eval()
    with torch.no_grad():
        model.head.weight[1:].zero_()
        model.head.bias[1:] = torch.tensor([-20.0, 0, 0, 0])  # almost no noise
    image = torch.rand(1, 1, 8, 16)
    mean = torch.sigmoid(model.head(model.model(image))[:, :1])
    assert (model.sample_masks(image, [seeded_generator(0)]) - mean).abs().max() < 0.02 < mean.std()


def test_prob_unet_has_the_layers_described():
    """At the published sizes, by hand: filters 32, 64, 128, 192, three convolutions a block, latent of 6."""
    F = (32, 64, 128, 192)
    encoder = sum(conv(f, f, 3) * 2 for f in F) + sum(conv(i, o, 3) for i, o in itertools.pairwise(F))
    down = conv(1, 32, 3) + encoder
    up = sum(conv(i + o, o, 3) + 2 * conv(o, o, 3) for i, o in ((192, 128), (128, 64), (64, 32)))
    prior = conv(1, 32, 3) + encoder + conv(192, 12, 1)
    posterior = conv(2, 32, 3) + encoder + conv(192, 12, 1)
    combiner = conv(32 + 6, 32, 1) + 2 * conv(32, 32, 1) + conv(32, 1, 1)
    model = segmenter_of({"method": "prob-unet", "image_size": 128, "image_channels": 1})
    parts = [
        sum(p.numel() for p in part.parameters())
        for part in (model.model, model.prior, model.posterior, model.combiner)
    ]
    assert parts == [down + up, prior, posterior, combiner]
    assert sum(parts) == sum(p.numel() for p in model.parameters()) == 4_999_449


def test_cimd_small_has_the_parameters_named():
    segmenter = segmenter_of(PRESETS["cimd-small"])
    assert sum(p.numel() for p in segmenter.model.parameters()) == 21_424_898


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_built(preset):
    channels = {"image_channels": 2} if PRESETS[preset].get("image_channels") == "auto" else {}
    segmenter = segmenter_of({**PRESETS[preset], **channels})
    assert sum(p.numel() for part in segmenter.sampling_parts for p in part.parameters()) > 0
    check_rules(configs_from_flags(PRESETS[preset], TrainConfig, *MODEL_CONFIGS))


def test_the_plain_unet_takes_sizes_that_do_not_halve():
    assert PlainUNet(1, (4, 8, 16), 1)(torch.randn(2, 1, 13, 22)).shape == (2, 4, 13, 22)


def test_prob_unet_loss_is_the_elbo_written_out():
    model = build("prob-unet")
    image, mask, noise = torch.rand(3, 1, 16, 16), (torch.rand(3, 1, 16, 16) > 0.5).float(), torch.randn(3, 2)
    terms = model(image, mask, None, noise)

    q, p = model.posterior(image, mask), model.prior.of(image)
    z = q.mean + q.stddev * noise
    features = model.model(image)
    logits = model.combiner(features, z)
    total_bce, kl = 0.0, torch.zeros(3)
    for b in range(3):
        for s, y in zip(logits[b].flatten(), mask[b].flatten(), strict=True):
            total_bce += -(y * torch.sigmoid(s).log() + (1 - y) * torch.sigmoid(-s).log())
        for d in range(2):
            mq, sq, mp, sp = q.mean[b, d], q.stddev[b, d], p.mean[b, d], p.stddev[b, d]
            kl[b] += torch.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5
    norms = sum(w.norm() for part in (model.prior, model.posterior, model.combiner.hidden) for w in part.parameters())
    # The published sum over a batch of 5, at which 1/5 of it is a mean over masks
    published = total_bce / 3 + (10 * kl.mean() + 1e-5 * norms) / 5
    torch.testing.assert_close(terms["loss"].mean(), published, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["kl"].mean(), 2 * kl.mean(), rtol=1e-4, atol=0)


def test_the_kl_moves_both_encoders_of_prob_unet():
    model = build("prob-unet")
    terms = model(torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16), None, torch.randn(2, 2))
    for part in (model.prior, model.posterior):
        gradients = torch.autograd.grad(terms["kl"].sum(), list(part.parameters()), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


def test_prob_unet_samples_vary_with_the_latent_only():
    model = build("prob-unet").eval()
    image = torch.rand(1, 1, 16, 16)
    rows, z = torch.zeros(4, dtype=torch.long), torch.randn(2, 2)
    logits = model.draw_logits(model.encode(image), z[[0, 0, 1, 1]], rows)
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[2], logits[3])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_ssn_draws_have_the_covariance_of_its_factors():
    model = build("ssn", num_filters=(4, 8)).eval()
    image = torch.rand(1, 1, 4, 4)
    gaussian = model.gaussian(image)
    mu, deviation, factor = gaussian
    expected = LowRankMultivariateNormal(mu[0], factor[0], deviation[0] ** 2)
    draws = model.draw(gaussian, torch.randn(1, 200_000, 3 + 16, generator=torch.Generator().manual_seed(0)))[0]
    scale = expected.covariance_matrix.diagonal().mean()
    assert ((torch.cov(draws.T) - expected.covariance_matrix).abs() / scale).max() < 0.02
    assert ((draws.mean(0) - mu[0]).abs() / scale.sqrt()).max() < 0.01


def test_ssn_loss_is_the_likelihood_written_out(monkeypatch):
    monkeypatch.setattr("guided_diffusion.methods.baselines.ssn.MC_SAMPLES", 5)
    model = build("ssn")
    image, mask, noise = torch.rand(2, 1, 4, 4), (torch.rand(2, 1, 4, 4) > 0.5).float(), torch.randn(2, 5, 3 + 16)
    gaussian = [x.double() for x in model.gaussian(image)]
    nll = []
    for b in range(2):
        likelihood = torch.zeros((), dtype=torch.float64)
        for m in range(5):
            own, common = noise[b, m, 3:].double(), noise[b, m, :3].double()
            logits = gaussian[0][b] + gaussian[2][b] @ common + gaussian[1][b] * own
            p = torch.sigmoid(logits)
            likelihood += torch.where(mask[b].flatten() > 0, p, 1 - p).prod() / 5
        nll.append(-likelihood.log().item())
    torch.testing.assert_close(model(image, mask, None, noise)["nll"], torch.tensor(nll), rtol=1e-4, atol=0)


def test_dropout_is_drawn_by_the_noise_with_its_probability():
    model = build("mc-dropout").model.eval()
    noise = torch.randn(500, sum(model.dropped), generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, 1, 16, 16).expand(500, -1, -1, -1)
    with torch.no_grad():
        a, b, without = model(image, noise), model(image, noise), model(image[:1])
    torch.testing.assert_close(a, b)
    assert a.std(0).max() > 1e-3 and (without - a[:1]).abs().max() > 1e-3
    first = noise[:, : model.dropped[0]]
    kept = model.drop(torch.ones(500, model.dropped[0], 1, 1), iter([first])) > 0
    assert kept.float().mean() == pytest.approx(0.7, abs=0.02)
    block = model.down[1](torch.nn.functional.avg_pool2d(model.down[0](image), 2))  # unbiased behind the first block
    dropped = model.drop(block, iter([first]))
    torch.testing.assert_close(dropped.mean(0).sum(), block[0].sum(), rtol=0.05, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_rows_share_an_image(method):
    """Two masks of one image, given once or twice, have the same loss terms and the same samples."""
    model = nonzero(build(method)).eval()
    image, mask, t = (
        torch.rand(2, 1, 16, 16),
        (torch.rand(4, 1, 16, 16) > 0.5).float(),
        torch.zeros(4, dtype=torch.long),
    )
    noise = torch.randn(4, *model.noise_shape((16, 16)))
    rows = torch.tensor([0, 0, 1, 1])
    shared, apart = model(image, mask, t, noise, rows), model(image[rows], mask, t, noise)
    assert shared.keys() == apart.keys() and shared.keys() <= {"loss", *model.terms}
    for name in shared:
        torch.testing.assert_close(shared[name], apart[name])
    draws = [
        model.sample_masks(*what)
        for what in (
            (image, [seeded_generator(k) for k in range(4)], SamplerConfig(), None, rows),
            (image[rows], [seeded_generator(k) for k in range(4)]),
        )
    ]
    torch.testing.assert_close(*draws, rtol=1e-4, atol=1e-4)


def two_answers():
    """(image, the masks of two raters that contradict each other, four times over, and their image's number)."""
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return image, torch.cat([left, 1 - left]).repeat(4, 1, 1, 1), torch.zeros(8, dtype=torch.long)


def overfit(model, steps, lr):
    """Trains on `two_answers`; the last loss, and 64 samples."""
    image, masks, rows = two_answers()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        t = torch.randint(model.num_timesteps, (8,))
        loss = model(image, masks, t, torch.randn(8, *model.noise_shape((8, 8))), rows)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        generators = [seeded_generator(k) for k in range(64)]
        return loss.item(), model.eval().sample_masks(
            image, generators, SamplerConfig(), None, torch.zeros(64, dtype=torch.long)
        )


@pytest.mark.parametrize(
    "method, steps, good, first, more",
    [
        ("prob-unet", 400, 12, 2, {"beta": 0.3}),
        ("ssn", 200, 2, 0, {}),
        ("implicit-ensemble", 250, 1, 0, {"channel_mult": "1", "attention_resolutions": ""}),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_both_of_two_opposite_answers_appear(method, steps, good, first, more):
    """Both answers, each about as often, from the first start that finds them.

    A probabilistic U-Net may leave its latent unused.
    """
    starts = (overfit(build(method, seed, image_size=8, **more), steps, 3e-3) for seed in range(first, first + 3))
    drawn = next(drawn for loss, drawn in starts if loss < good)
    left, right = two_answers()[1][:2].bool()
    counts = [int((((drawn > 0.5) == answer).float().mean(dim=(1, 2, 3)) > 0.95).sum()) for answer in (left, right)]
    assert sum(counts) >= 50 and min(counts) >= 16, counts


@pytest.mark.parametrize("method", ["mc-dropout", "unet"])
def test_without_a_latent_two_opposite_answers_average(method):
    """The cross-entropy's optimum is a probability of 1/2 everywhere; the plain U-Net always gives the same mask."""
    _, drawn = overfit(build(method, image_size=8), 200, 2e-3)
    assert (drawn.mean() - 0.5).abs() < 0.05
    assert (drawn.std(0).max() > 1e-4) == (method == "mc-dropout")


@pytest.mark.parametrize("method", BASELINES)
def test_every_method_trains_samples_and_scores_by_the_same_scripts(cases, tmp_path, method):
    flags = {**SMALL, **METHODS[method], "method": method, "num_filters": "8,16", "iterations": 2, "batch_size": 2}
    flags = {name: value for name, value in flags.items() if name not in foreign_flags(method, "unet")}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    trained = call_script("segmentation_train", "--data_dir", cases, "--log_dir", tmp_path / "run", *arguments)
    assert trained.returncode == 0, trained.stderr
    columns = (tmp_path / "run" / "progress.csv").read_text().splitlines()[0].split(",")
    segmenter = load_segmenter(str(tmp_path / "run" / "savedmodel.pt"), {}).segmenter
    assert set(segmenter.terms) <= set(columns)

    sample = (
        "segmentation_sample",
        "--data_dir",
        cases,
        "--model_path",
        tmp_path / "run" / "savedmodel.pt",
        "--num_ensemble",
        3,
        "--evaluate",
    )
    whole = call_script(*sample, "--out_dir", tmp_path / "a", "--batch_size", 8)
    small = call_script(*sample, "--out_dir", tmp_path / "b", "--batch_size", 1)
    assert whole.returncode == small.returncode == 0, whole.stderr + small.stderr
    assert "ged_3" in whole.stdout
    for path in sorted((tmp_path / "a").glob("*_samples.npz")):
        a, b = np.load(path)["samples"], np.load(tmp_path / "b" / path.name)["samples"]
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert a.shape == (3, 16, 16) and a.min() >= 0 and a.max() <= 1
        assert (np.ptp(a, axis=0).max() > 1e-5) == (method != "unet")


def test_flags_of_another_method_are_refused(cases, tmp_path):
    train = ("segmentation_train", "--data_dir", cases, "--log_dir", tmp_path)
    assert_refused(call_script(*train, "--method", "ssn", "--learn_sigma", "True"), "--learn_sigma", "--method ssn")
    assert_refused(call_script(*train, "--preset", "cimd", "--beta", "3"), "--beta", "--method cimd")
    assert_refused(call_script(*train, "--method", "mc-dropout", "--image_size", 16), "--dropout above 0")
    assert_refused(call_script(*train, "--method", "unet", "--num_filters", "8"), "--num_filters 8")
    assert_refused(call_script(*train, "--method", "unet", "--latent_dim", "3"), "--latent_dim", "--method unet")
    assert_refused(
        call_script(*train, "--method", "implicit-ensemble", "--kl_weight", "1"),
        "--kl_weight",
        "--method implicit-ensemble",
    )
    assert_refused(
        call_script(*train, "--method", "mc-dropout", "--image_size", 16, "--dropout", "1.0"), "--dropout 1:"
    )
    with pytest.raises(ConfigError, match="--shard"):
        build("unet").shardable()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_segmenter(method):
    assert isinstance(build(method), Segmenter)


def test_checking_shapes_does_not_import_a_compiler():
    """Random values on meta tensors would: seconds of every command that loads a model."""
    program = (
        "import sys; from guided_diffusion import script_util;"
        "from guided_diffusion.flags.configs import configs_from_flags;"
        "from guided_diffusion.methods.registry import MODEL_CONFIGS;"
        "flags = {'method': 'prob-unet', 'image_channels': 1, 'num_filters': '4,8'};"
        "script_util.check_model(configs_from_flags(flags, *MODEL_CONFIGS)); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
