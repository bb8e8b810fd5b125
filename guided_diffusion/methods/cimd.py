"""The ambiguous segmenter: U-Net, diffusion and both Gaussian encoders in a single trainable module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..data.config import classes_of
from ..data.symmetry import symmetries, turn_and_mirror, turn_back
from ..distribution import AxisAlignedConvGaussian, EncoderConfig, create_encoders, kl_divergence
from ..flags.classes import Classes
from ..flags.configs import Configs
from ..flags.fields import Flag, config
from ..flags.words import split_kind
from ..gaussian_diffusion import DiffusionConfig, GaussianDiffusion, Masks, Output, Steps, Valid
from ..nn import Denoise, mean_flat, stack_randn
from ..respace import create_gaussian_diffusion, spread_timesteps
from ..sampling.protocol import Encoded, OnStep, Segmenter, without_ignored
from ..sampling.samplers import SamplerConfig, sample_loop
from ..unet import UNetConfig, UNetModel
from .mask_mixture import MaskMixture
from .shared_encoder import ArchitectureConfig, BoundDenoiser, SharedEncoderUNet
from .stable_target import stable_target

Images = Float[Tensor, "N C H W"]  # in [0, 1]
Rows = Int[Tensor, "B"]  # index of each mask's image


@config(group="diffusion")
class SegmenterConfig:
    """The diffusion loss, including the two encoders."""

    train_encoders: Annotated[
        bool,
        Flag(
            "train the two encoders; False: keep the initial weights, as published", group="encoders", resume="new run"
        ),
    ] = True
    kl_weight: Annotated[
        float, Flag("weight of the encoders' KL in the loss", group="encoders", resume="new run", at_least=0)
    ] = 1e-3
    ambiguity_input: Annotated[
        Literal["output", "x0"],
        Flag("input of the controlling network: the U-Net's output, or the x_0 computed from it", group="encoders"),
    ] = "output"
    mask_low: Annotated[float, Flag("background value in x_0; the foreground is 1", at_least=-1, below=1)] = 0.0
    stable_target: Annotated[
        bool,
        Flag(
            "train to predict the mean of an image's masks in the batch, weighted by their probability given x_t",
            resume="new run",
            sampling="free",
        ),
    ] = False
    guess_weight: Annotated[
        float,
        Flag(
            "loss weight of the squared error of several --encoder_guesses, weighted without x_t",
            group="shared-encoder",
            resume="new run",
            sampling="free",
            at_least=0,
        ),
    ] = 0.0


class AmbiguousSegmenter(Segmenter):
    """Trains on (image, one rater's mask) and samples masks for an image.

    prior, posterior  the ambiguity controlling and the ambiguity modelling network; both None: no encoders and no KL
                      term, as in Implicit Image Segmentation Ensembles
    classes           a mask has one channel for each; the network predicts all of them together
    """

    terms = ("mse", "vb", "guess", "kl")  # loss terms; some may be absent

    def __init__(
        self,
        model: UNetModel | SharedEncoderUNet,
        diffusion: GaussianDiffusion,
        prior: AxisAlignedConvGaussian | None,
        posterior: AxisAlignedConvGaussian | None,
        config: SegmenterConfig = SegmenterConfig(),
        *,
        classes: Classes = Classes(),
    ) -> None:
        super().__init__()
        self.classes = classes
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
        """Number of timesteps to train on, and of network calls per mask."""
        return self.diffusion.num_timesteps

    @property
    def max_steps(self) -> int:
        """The largest number of network calls per mask that `spaced` supports."""
        return self.diffusion.config.diffusion_steps

    @property
    def sampling_parts(self) -> list[nn.Module]:
        """The modules that sampling needs."""
        return [self.model]

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one mask's noise in `forward`, for masks of `size` (H, W)."""
        return (self.classes.count, *size)

    def spaced(self, config: SamplerConfig) -> "AmbiguousSegmenter":
        """A segmenter with the same weights on the timesteps given by the config's steps and spacing."""
        if config.steps is None:
            return self
        timesteps = spread_timesteps(self.diffusion.config, config.steps, config.spacing)
        diffusion = create_gaussian_diffusion(self.diffusion.config, timesteps)
        parts = (self.model, diffusion, self.prior, self.posterior)
        return AmbiguousSegmenter(*parts, self.config, classes=self.classes)

    def shardable(self) -> list[nn.Module]:
        """The modules to shard over processes, inner ones first; together they hold all weights.

        Sharding requires modules that return tensors. An encoder as a whole returns a distribution, so its parts are
        listed instead.
        """
        parts = []
        for unet in [part for part in self.model.modules() if isinstance(part, UNetModel)]:
            parts += [*unet.input_blocks, unet.middle_block, *unet.output_blocks, unet]
        outer = [self.model] if isinstance(self.model, SharedEncoderUNet) else []
        return [*parts, *outer, *(part for encoder in self.encoders for part in (encoder.encoder, encoder.conv_layer))]

    def compile(self, *arguments: Any, **how: Any) -> None:
        """As nn.Module.compile. Tables that the first call copies to the device would make the second compile anew."""
        self.diffusion.at("betas", torch.zeros(1, dtype=torch.long, device=next(self.parameters()).device))
        super().compile(*arguments, **how)

    def to_x(self, mask: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Map a mask from [0, 1] to the diffusion's scale, [mask_low, 1]."""
        return self.config.mask_low + (1 - self.config.mask_low) * mask

    def to_mask(self, x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """The inverse of `to_x`."""
        return (x - self.config.mask_low) / (1 - self.config.mask_low)

    def denoiser(self, image: Images, rows: Rows | None = None, valid: Valid = None, known: Encoded = ()) -> Denoise:
        """`denoise(x, timesteps)` with the images bound: see UNetModel.bind, and BoundDenoiser for `valid`."""
        bound = self.model.bind(image, rows, known)
        return replace(bound, valid=valid) if isinstance(bound, BoundDenoiser) else bound

    def forward(
        self,
        image: Images,
        mask: Masks,
        t: Steps,
        noise: Masks | None = None,
        rows: Rows | None = None,
        *,
        valid: Float[Tensor, "N 1 H W"] | None = None,
    ) -> dict[str, Float[Tensor, "B"]]:
        """Compute the loss terms: mse and vb (from the diffusion), guess and kl (weighted), and their sum, loss.

        guess is the squared error of the mixture of guesses, weighted from the image alone, times guess_weight. It
        equals the unweighted mse for an x_t of pure noise and does not need a call of the denoiser.

        mask   0 or 1
        noise  standard normal; None: drawn from torch's global generator
        rows   None: N = B, one mask per image
        valid  0 at ignored pixels: they are background in x_0 and for the encoders, and count in no term
        """
        noise = torch.randn_like(mask) if noise is None else noise
        mask, counted = without_ignored(mask, valid, rows)
        x_0 = self.to_x(mask)
        x_t = self.diffusion.q_sample(x_0, t, noise)
        denoise = self.denoiser(image, rows, counted)
        output = denoise(x_t, self.diffusion.network_timesteps(t))

        target = None
        if self.config.stable_target and rows is not None:
            target = stable_target(self.diffusion, x_0, x_t, t, rows)
        terms = self.diffusion.hybrid_loss(output, x_0, x_t, t, noise, target, valid=counted)
        if self.config.guess_weight:
            guess = cast(BoundDenoiser, denoise).guess()  # only a shared encoder has several guesses
            terms["guess"] = self.config.guess_weight * mean_flat((guess - x_0) ** 2, counted)
            terms["loss"] = terms["loss"] + terms["guess"]
        if not self.encoders:
            return terms
        predicted, _ = without_ignored(self.controlling_input(output, x_t, t), counted, None)
        kl = self._kl(image if rows is None else image[rows], mask, predicted)
        return {**terms, "kl": kl, "loss": terms["loss"] + kl}

    def _kl(self, image: Float[Tensor, "B C H W"], mask: Masks, predicted: Masks) -> Float[Tensor, "B"]:
        """The weighted KL of the posterior, which sees the mask, to the prior, which sees the prediction; in nats."""
        assert self.prior is not None and self.posterior is not None
        seen = image[:, : self.prior.input_channels]  # --encoder_channels
        return self.config.kl_weight * kl_divergence(self.posterior(seen, mask), self.prior(seen, predicted))

    def controlling_input(self, output: Output, x_t: Masks, t: Steps) -> Masks:
        """The ambiguity controlling network's input, computed from the U-Net's output."""
        if self.config.ambiguity_input == "x0":
            return self.to_mask(self.diffusion.predict_xstart(output, x_t, t).clamp(-1, 1))  # as samplers clip
        return output[:, : self.classes.count]

    def encode(self, image: Images, config: SamplerConfig = SamplerConfig()) -> Encoded:
        """The two tensors of a shared encoder for each symmetry of `tta`; a plain U-Net has none."""
        turned = [turn_and_mirror(image, g) for g in symmetries(split_kind(config.tta))]
        return tuple(part for one in turned for part in self.model.encode(one))

    def sampling_denoiser(
        self, image: Images, rows: Rows | None = None, tta: str = "none", encoded: Encoded = ()
    ) -> Denoise:
        """`denoiser` for batches with a single timestep, whose embedding is computed for one row only.

        Outputs are copied, because a compiled network may overwrite its last output.

        tta  see SamplerConfig: the output is the mean over symmetries g of g^-1 D(g x, g image), as in nnU-Net's test
             time mirroring (Isensee et al. 2021). If the distribution of images and masks is invariant under g, the
             optimal D is equivariant, and the squared error of the mean is at most the mean squared error of its parts.
        """
        bound = [
            (g, self.denoiser(turn_and_mirror(image, g), rows, known=encoded[2 * k : 2 * k + 2]))
            for k, g in enumerate(symmetries(split_kind(tta)))
        ]

        def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
            outputs = [turn_back(part(turn_and_mirror(x, g), timesteps[:1]).clone(), g) for g, part in bound]
            return torch.stack(outputs).mean(dim=0)

        return denoise

    def one_call(self, image: Images, config: SamplerConfig = SamplerConfig()) -> Float[Tensor, "N outputs H W"]:
        """One network call as in sampling with `config`, one mask per image; used to measure time and memory."""
        t = torch.zeros(len(image), dtype=torch.long, device=image.device)
        x = image[:, :1].expand(-1, self.classes.count, -1, -1)
        return self.sampling_denoiser(image, tta=config.tta)(x, self.diffusion.network_timesteps(t))

    def sample_masks(
        self,
        image: Images,
        generators: Sequence[torch.Generator],
        config: SamplerConfig = SamplerConfig(),
        on_step: OnStep | None = None,
        rows: Rows | None = None,
        encoded: Encoded = (),
    ) -> Masks:
        """Sample one soft mask per generator (B in total), on a scale where background is 0 and foreground 1.

        generators  on the CPU; row b's initial and step noise come from generators[b] only
        config      steps and spacing are ignored here: call `spaced` first
        on_step     called after each step
        rows        None: N = B, one mask per image
        encoded     encode(image, config), if it is known already
        """
        shape = self.noise_shape((image.shape[2], image.shape[3]))

        def draw() -> Tensor:
            return stack_randn(generators, shape, image.device)

        x = draw()
        chain = sample_loop(
            self.sampling_denoiser(image, rows, config.tta, encoded),
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
    """Build the AmbiguousSegmenter of the configs. ConfigError: the configuration is invalid.

    with_encoders  False: no encoders, as in Implicit Image Segmentation Ensembles
    """
    unet, architecture, classes = configs[UNetConfig], configs[ArchitectureConfig], classes_of(configs)
    diffusion, K = create_gaussian_diffusion(configs[DiffusionConfig]), classes.count
    out_channels = K * diffusion.out_channels
    model: UNetModel | SharedEncoderUNet
    if architecture.architecture == "shared-encoder":
        mixture = MaskMixture(configs[DiffusionConfig], configs[SegmenterConfig].mask_low, classes)
        model = SharedEncoderUNet(unet, architecture, out_channels, mixture, K)
    else:
        model = UNetModel(unet, out_channels, unet.channels + K)
    prior, posterior = create_encoders(configs[EncoderConfig], K) if with_encoders else (None, None)
    return AmbiguousSegmenter(model, diffusion, prior, posterior, configs[SegmenterConfig], classes=classes)
