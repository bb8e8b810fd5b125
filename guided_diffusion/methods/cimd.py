"""The ambiguous segmenter: U-Net, diffusion and both Gaussian encoders as ONE trainable module."""

from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ..data.symmetry import symmetries, turn_and_mirror, turn_back
from ..distribution import AxisAlignedConvGaussian, EncoderConfig, create_encoders
from ..flags.configs import Configs
from ..flags.fields import Flag, config
from ..flags.words import split_kind
from ..gaussian_diffusion import DiffusionConfig, GaussianDiffusion, Masks, Output, Steps
from ..nn import Denoise, mean_flat, stack_randn, to_device
from ..respace import create_gaussian_diffusion, spread_timesteps
from ..sampling.protocol import OnStep, Segmenter
from ..sampling.samplers import SamplerConfig, sample_loop
from ..unet import UNetConfig, UNetModel
from .mask_mixture import MaskMixture
from .shared_encoder import ArchitectureConfig, BoundDenoiser, SharedEncoderUNet
from .stable_target import stable_target

Images = Float[Tensor, "N C H W"]  # in [0, 1]
Rows = Int[Tensor, "B"]  # the number of each mask's image


@config(group="diffusion")
class SegmenterConfig:
    """The loss of the diffusion, and the two encoders in it."""

    train_encoders: Annotated[
        bool,
        Flag("optimise the two encoders (False: as initialised, as published)", group="encoders", resume="new run"),
    ] = True
    kl_weight: Annotated[
        float, Flag("weight of the encoders' KL in the loss", group="encoders", resume="new run", at_least=0)
    ] = 1e-3
    ambiguity_input: Annotated[
        Literal["output", "x0"],
        Flag(
            "what the controlling network sees: the U-Net's output, or the mask x_0 that it implies", group="encoders"
        ),
    ] = "output"
    mask_low: Annotated[float, Flag("value of the background in x_0; the foreground is 1", at_least=-1, below=1)] = 0.0
    stable_target: Annotated[
        bool,
        Flag(
            "predict the mean of an image's masks in the step, weighted by how likely each gave x_t",
            resume="new run",
            sampling="free",
        ),
    ] = False
    guess_weight: Annotated[
        float,
        Flag(
            "weight of the squared error of several --encoder_guesses, weighted by the image alone",
            group="shared-encoder",
            resume="new run",
            sampling="free",
            at_least=0,
        ),
    ] = 0.0


class AmbiguousSegmenter(Segmenter):
    """Trains on (image, one rater's mask) and samples masks for an image.

    prior, posterior  the ambiguity controlling and the ambiguity modelling network; None, both: without them and their
                      loss term it is the system of Implicit Image Segmentation Ensembles
    """

    terms = ("mse", "vb", "guess", "kl")  # of the loss; some may be absent

    def __init__(
        self,
        model: UNetModel | SharedEncoderUNet,
        diffusion: GaussianDiffusion,
        prior: AxisAlignedConvGaussian | None,
        posterior: AxisAlignedConvGaussian | None,
        config: SegmenterConfig = SegmenterConfig(),
    ) -> None:
        super().__init__()
        self.model: UNetModel | SharedEncoderUNet = model
        self.prior, self.posterior = prior, posterior
        self.diffusion, self.config = diffusion, config
        for encoder in self.encoders:
            encoder.requires_grad_(config.train_encoders)

    @property
    def encoders(self) -> list[AxisAlignedConvGaussian]:
        """Both Gaussian encoders, or none."""
        return [encoder for encoder in (self.prior, self.posterior) if encoder is not None]

    @property
    def num_timesteps(self) -> int:
        """Timesteps to train on, and network calls for a mask."""
        return self.diffusion.num_timesteps

    @property
    def max_steps(self) -> int:
        """The most network calls for a mask that `spaced` can be asked for."""
        return self.diffusion.config.diffusion_steps

    @property
    def sampling_parts(self) -> list[nn.Module]:
        """The modules that sampling needs."""
        return [self.model]

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of one mask's noise in `forward`, for masks of `size` (H, W)."""
        return (1, *size)

    def spaced(self, config: SamplerConfig) -> "AmbiguousSegmenter":
        """The same networks, weights shared, on the timesteps that the config's steps and spacing choose."""
        if config.steps is None:
            return self
        timesteps = spread_timesteps(self.diffusion.config, config.steps, config.spacing)
        diffusion = create_gaussian_diffusion(self.diffusion.config, timesteps)
        return AmbiguousSegmenter(self.model, diffusion, self.prior, self.posterior, self.config)

    def shardable(self) -> list[nn.Module]:
        """The modules whose weights may be shared out over processes, inner ones first: together all that there are.

        Each gives a tensor, by which its gradients are found; the encoders as a whole give a distribution.
        """
        parts = []
        for unet in [part for part in self.model.modules() if isinstance(part, UNetModel)]:
            parts += [*unet.input_blocks, unet.middle_block, *unet.output_blocks, unet]
        return [*parts, *(part for encoder in self.encoders for part in (encoder.encoder, encoder.conv_layer))]

    def to_x(self, mask: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """A mask on [0, 1] on the scale of the diffusion, [mask_low, 1]."""
        return self.config.mask_low + (1 - self.config.mask_low) * mask

    def to_mask(self, x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The inverse of `to_x`."""
        return (x - self.config.mask_low) / (1 - self.config.mask_low)

    def denoiser(self, image: Images, rows: Rows | None = None) -> Denoise:
        """`denoise(x, timesteps)` with the images bound in, as UNetModel.bind."""
        return self.model.bind(image, rows)

    def forward(
        self, image: Images, mask: Masks, t: Steps, noise: Masks | None = None, rows: Rows | None = None
    ) -> dict[str, Float[Tensor, "B"]]:
        """The loss terms: mse, vb (as the diffusion has them), guess, kl (both weighted), and loss, to be minimised.

        guess is the squared error of several guesses weighed by the image alone, with guess_weight. It is what the
        unweighted mse would be were x_t noise, where the image alone decides the weights, and needs no call of the
        denoiser.

        mask   0 or 1
        noise  standard normal; None: from torch's global generator
        rows   None: N = B, one each
        """
        noise = torch.randn_like(mask) if noise is None else noise
        x_0 = self.to_x(mask)
        x_t = self.diffusion.q_sample(x_0, t, noise)
        denoise = self.denoiser(image, rows)
        output = denoise(x_t, self.diffusion.network_timesteps(t))

        target = None
        if self.config.stable_target and rows is not None:
            target = stable_target(self.diffusion, x_0, x_t, t, rows)
        terms = self.diffusion.hybrid_loss(output, x_0, x_t, t, noise, target)
        if self.config.guess_weight:
            guess = cast(BoundDenoiser, denoise).guess()  # several guesses are the shared encoder's
            terms["guess"] = self.config.guess_weight * mean_flat((guess - x_0) ** 2)
            terms["loss"] = terms["loss"] + terms["guess"]
        if self.prior is None or self.posterior is None:
            return terms
        image = image if rows is None else image[rows]
        grey = image[:, :1]  # all that the encoders see of an image
        prior = self.prior(grey, self.controlling_input(output, x_t, t))
        kl = self.config.kl_weight * kl_divergence(self.posterior(grey, mask), prior)  # in nats
        return {**terms, "kl": kl, "loss": terms["loss"] + kl}

    def controlling_input(self, output: Output, x_t: Masks, t: Steps) -> Masks:
        """What the ambiguity controlling network sees of the U-Net's output."""
        if self.config.ambiguity_input == "x0":
            return self.to_mask(self.diffusion.predict_xstart(output, x_t, t).clamp(-1, 1))  # as samplers clip
        return output[:, :1]

    def sampling_denoiser(self, image: Images, rows: Rows | None = None, tta: str = "none") -> Denoise:
        """`denoiser` for batches of one timestep, so that what depends on the timestep is computed for one row.

        A compiled network may write its next output over its last, so each is copied.

        tta  as in SamplerConfig: the output is the mean over symmetries g of g^-1 D(g x, g image), as nnU-Net mirrors
             in testing (Isensee et al. 2021). Where they leave the distribution of images and masks as it is, the best
             D is the same for all, and a mean is never further from it, in squared error, than its parts on average.
        """
        bound = [(g, self.denoiser(turn_and_mirror(image, g), rows)) for g in symmetries(split_kind(tta))]

        def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
            outputs = [turn_back(part(turn_and_mirror(x, g), timesteps[:1]).clone(), g) for g, part in bound]
            return torch.stack(outputs).mean(dim=0)

        return denoise

    def one_call(self, image: Images, config: SamplerConfig = SamplerConfig()) -> Float[Tensor, "N outputs H W"]:
        """A network call as sampling with `config` makes it, for as many masks as images, to measure what it takes."""
        t = torch.zeros(len(image), dtype=torch.long, device=image.device)
        return self.sampling_denoiser(image, tta=config.tta)(image[:, :1], self.diffusion.network_timesteps(t))

    def sample_masks(
        self,
        image: Images,
        generators: Sequence[torch.Generator],
        config: SamplerConfig = SamplerConfig(),
        on_step: OnStep | None = None,
        rows: Rows | None = None,
    ) -> Masks:
        """One mask for each of the B generators, soft, on the scale on which masks are 0 and 1.

        generators  on the CPU; row b's start and noise come from generators[b] alone
        config      its steps and spacing are those of `spaced`, which is called before
        on_step     called after each step
        rows        None: N = B, one each
        """
        shape = self.noise_shape((image.shape[2], image.shape[3]))

        def draw() -> Tensor:
            return to_device(stack_randn(generators, shape), image.device)

        x = draw()
        chain = sample_loop(
            self.sampling_denoiser(image, rows, config.tta),
            self.diffusion,
            x,
            config.sampler,
            config.eta,
            lambda k, x: draw(),
            clip_denoised=config.clip_denoised,
        )
        for k, (_, x, _) in enumerate(chain):
            if on_step:
                on_step(k, self.to_mask(x))
        return self.to_mask(x)


def build_diffusion(configs: Configs, with_encoders: bool) -> AmbiguousSegmenter:
    """The AmbiguousSegmenter of the configs. ConfigError: it cannot be built.

    with_encoders  False: the system of Implicit Image Segmentation Ensembles
    """
    unet, architecture = configs[UNetConfig], configs[ArchitectureConfig]
    diffusion = create_gaussian_diffusion(configs[DiffusionConfig])
    model: UNetModel | SharedEncoderUNet
    if architecture.architecture == "shared-encoder":
        mixture = MaskMixture(configs[DiffusionConfig], configs[SegmenterConfig].mask_low)
        model = SharedEncoderUNet(unet, architecture, diffusion.out_channels, mixture)
    else:
        model = UNetModel(unet, diffusion.out_channels)
    prior, posterior = create_encoders(configs[EncoderConfig]) if with_encoders else (None, None)
    return AmbiguousSegmenter(model, diffusion, prior, posterior, configs[SegmenterConfig])
