"""Ambiguous segmentation by diffusion (CIMD, CVPR 2023) in one file: data, loss, training loop, sampling.

    python examples/minimal.py

It trains on the phantoms of data/training at 32x32, draws masks for test images and compares them with the raters'.
The method is complete; options, checkpoints, logs and several GPUs are what guided_diffusion/train_util.py adds.

b    the image, [B, 1, H, W] in [0, 1]
x_0  a rater's mask, [B, 1, H, W] in {-1, 1}; x_t: the noisy mask; eps: the noise; x_0_hat: the U-Net's prediction
z    the latent variable of the two Gaussian encoders
"""

import copy
import pathlib
import time

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from guided_diffusion.distribution import EncoderConfig, create_encoders
from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.metrics import squared_ged
from guided_diffusion.masks.pictures import sheet
from guided_diffusion.respace import create_gaussian_diffusion, spread_timesteps
from guided_diffusion.sampling.samplers import sample
from guided_diffusion.unet import UNetConfig, UNetModel

ROOT = pathlib.Path(__file__).resolve().parents[1]

# The paper trains at 128x128, with 128 channels and batches of 20. This is what two CPU cores train in two minutes.
UNET = UNetConfig(
    image_size=32, image_channels=1, num_channels=32, num_res_blocks=1, channel_mult=(1, 1, 1), attention_resolutions=()
)
ENCODERS = EncoderConfig(num_filters=(8, 16, 24), latent_dim=6)
# The paper predicts eps, with linear betas, and learns the variances of p(x_{t-1} | x_t) by a third term of the loss,
# L_vlb (improved DDPM, eq. 16). Predicting x_0 with cosine betas takes fewer steps; DDIM needs no learned variances.
DIFFUSION = DiffusionConfig(diffusion_steps=1000, noise_schedule="cosine", prediction="x0")
KL_WEIGHT = 1e-3  # as in the published code

STEPS, BATCH_SIZE, LEARNING_RATE, EMA_RATE = 600, 8, 2e-3, 0.99
TEST_IMAGES, ENSEMBLE, DDIM_STEPS = 8, 16, 10


def load(folder: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Images [N, 1, H, W] and the masks of all R raters [N, R, H, W], 0 or 1, of the first `count` cases."""
    dataset = LIDCDataset(ROOT / "data" / folder, UNET.image_size, UNET.image_channels)
    cases = [dataset[i] for i in range(count or len(dataset))]
    return torch.stack([case.image for case in cases]), torch.stack([case.raters for case in cases])


class CIMD(nn.Module):
    """A diffusion model of masks given an image, and the two Gaussian encoders in its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion = create_gaussian_diffusion(DIFFUSION)
        self.unet = UNetModel(UNET, self.diffusion.out_channels)
        # P(z | b, x_0_hat): the ambiguity controlling network ("prior"); Q(z | b, x_0): the modelling one ("posterior")
        self.P, self.Q = create_encoders(ENCODERS)

    def loss(self, b: Tensor, mask: Tensor, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, each [B], for masks of 0 and 1, timesteps t [B] in 0 .. T-1 and Gaussian noise eps."""
        # x_t ~ q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)  (DDPM, eq. 4)
        x_0 = 2 * mask - 1
        alpha_bar = self.diffusion.at("alphas_cumprod", t)  # [B, 1, 1, 1]
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps

        # The U-Net sees the image and the noisy mask
        x_0_hat = self.unet(torch.cat([b, x_t], dim=1), t)  # [B, 1, H, W]

        # L_simple, the squared error of the prediction  (DDPM, eq. 14, with x_0 in place of eps)
        mse = (x_0_hat - x_0).square().mean(dim=(1, 2, 3))

        # KL(Q(z | b, x_0) || P(z | b, x_0_hat)), in nats  (probabilistic U-Net, eq. 4, where P sees the image only)
        kl = kl_divergence(self.Q(b, mask), self.P(b, x_0_hat))
        return {"mse": mse, "kl": KL_WEIGHT * kl}

    @torch.no_grad()
    def draw(self, b: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` masks [count, H, W], bool, for an image [1, H, W], by DDIM from noise; encoders are not needed."""
        few = create_gaussian_diffusion(DIFFUSION, spread_timesteps(DIFFUSION, DDIM_STEPS))
        x_T = torch.randn(count, *b.shape, generator=generator)
        return sample(self.unet.bind(b.expand_as(x_T)), few, x_T, sampler="ddim")[:, 0] > 0


def train(model: CIMD, images: Tensor, raters: Tensor, steps: int) -> tuple[CIMD, Tensor]:
    """Train `model`; returns the moving average of its weights, as a model, and the loss terms [steps, 2]."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    average, history, start = copy.deepcopy(model), [], time.time()
    for step in range(steps):
        # A batch of random images, with one random rater's mask, one timestep and one noise for each
        i = torch.randint(len(images), (BATCH_SIZE,))
        rater = torch.randint(raters.shape[1], (BATCH_SIZE,))
        b, mask = images[i], raters[i, rater][:, None]
        t = torch.randint(DIFFUSION.diffusion_steps, (BATCH_SIZE,))
        terms = {name: term.mean() for name, term in model.loss(b, mask, t, torch.randn_like(mask)).items()}
        loss = terms["mse"] + terms["kl"]

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for p_mean, p in zip(average.parameters(), model.parameters(), strict=True):
                p_mean.lerp_(p, 1 - min(EMA_RATE, (1 + step) / (10 + step)))  # the rate warms up

        history.append([term.item() for term in terms.values()])
        if (step + 1) % 50 == 0:
            mse, kl = torch.tensor(history[-50:]).mean(dim=0)
            print(f"step {step + 1:4d}  mse {mse:.4f}  kl {kl:.5f}  ({time.time() - start:.0f} s)", flush=True)
    return average, torch.tensor(history)


def evaluate(model: CIMD, images: Tensor, raters: Tensor) -> tuple[float, list[Tensor]]:
    """The squared generalized energy distance, mean over the images, and the masks [M, H, W] drawn for each.

    It is 2 E d(S, Y) - E d(S, S') - E d(Y, Y') for samples S, raters' masks Y and d = 1 - IoU (probabilistic U-Net,
    eq. 5). The more the samples resemble the raters' masks, in shape and in frequency, the smaller it is.
    """
    generator = torch.Generator().manual_seed(0)
    masks = [model.draw(b, ENSEMBLE, generator) for b in images]
    ged = [float(squared_ged(S.numpy(), Y.numpy()).total) for S, Y in zip(masks, raters, strict=True)]
    return sum(ged) / len(ged), masks


def main(steps: int = STEPS, picture: pathlib.Path = ROOT / "results/minimal.png") -> tuple[Tensor, float, float]:
    """Train, sample, compare; returns the loss terms [steps, 2], and the energy distance before and after training."""
    torch.manual_seed(0)
    (images, raters), (test_images, test_raters) = load("training"), load("testing", TEST_IMAGES)
    model = CIMD()
    before, _ = evaluate(model, test_images, test_raters)
    average, history = train(model, images, raters, steps)
    after, masks = evaluate(average, test_images, test_raters)
    print(f"squared GED of {ENSEMBLE} masks, {TEST_IMAGES} test images: {before:.3f} untrained, {after:.3f} trained")
    sheet(test_images[0, 0].numpy(), test_raters[0].numpy() > 0.5, masks[0].numpy()).save(picture)
    print(f"saved {picture}")
    return history, before, after


if __name__ == "__main__":
    main()
