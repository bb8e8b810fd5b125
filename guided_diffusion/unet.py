"""The denoising U-Net of guided-diffusion (Dhariwal and Nichol 2021, section 3), with the published parameter names.

The input is the image and the noisy mask, concatenated along the channels. `GaussianDiffusion` interprets the output.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from .attention import AttentionBlock
from .errors import ConfigError
from .flags.fields import Flag, config, nonempty
from .flags.sizes import PIXELS, Size, as_size, show_size
from .nn import Denoise, Downsample, Upsample, checkpoint, norm_silu, normalization, timestep_embedding, zero_module

Resample = type[Upsample] | type[Downsample]
Maps = Float[Tensor, "B _ H W"]  # with any number of channels

NUM_CLASSES = 2  # of the published --class_cond
EMBEDDING = 4  # channels of the timestep embedding, per channel of the first level
# Default channel multipliers per level, by the longer side of the images
DEFAULT_CHANNEL_MULT = {512: (1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}


@config(group="diffusion")
class UNetConfig:
    """The U-Net."""

    image_size: Annotated[Size, Flag(f"size of the images, {PIXELS}", group="", at_least=1)] = 64
    image_channels: Annotated[
        int | Literal["auto"],
        Flag(
            "image channels of the network; a single plane is repeated to this many; auto: the planes of the cases",
            group="",
            at_least=1,
            from_cases=True,
        ),
    ] = 4
    num_channels: Annotated[int, Flag("channels of the first level", at_least=32, multiple_of=32)] = 128
    num_res_blocks: Annotated[int, Flag("residual blocks per level", at_least=1)] = 2
    channel_mult: Annotated[
        tuple[int, ...] | None,
        Flag("channel multiplier per level, e.g. 1,2,4; auto: by longer side", none="auto", at_least=1, check=nonempty),
    ] = None
    attention_resolutions: Annotated[
        tuple[int, ...], Flag("resolutions with self-attention, pixels of the longer side", at_least=1)
    ] = (16, 8)
    num_heads: Annotated[int, Flag("attention heads", at_least=1)] = 4
    num_heads_upsample: Annotated[
        int | None, Flag("attention heads in the decoder; auto: num_heads", none="auto", at_least=1)
    ] = None
    num_head_channels: Annotated[
        int | None, Flag("channels per head, overrides num_heads; none: use num_heads", none="none", at_least=1)
    ] = None
    use_scale_shift_norm: Annotated[bool, Flag("scale and shift the norm by the timestep instead of adding it")] = True
    resblock_updown: Annotated[bool, Flag("change the resolution by residual blocks instead of convolutions")] = False
    use_new_attention_order: Annotated[bool, Flag("split q, k, v before the heads instead of after")] = False
    class_cond: Annotated[bool, Flag("condition on one of two classes")] = False
    dropout: Annotated[
        float, Flag("dropout probability", group="dropout", resume="new run", sampling="free", at_least=0, below=1)
    ] = 0.0
    use_checkpoint: Annotated[
        bool, Flag("recompute activations in backward: slower, less memory", resume="free", sampling="free")
    ] = False
    use_fp16: Annotated[
        bool, Flag("run the U-Net in float16 where that is safe", resume="rounding", sampling="free")
    ] = False

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), in pixels."""
        return as_size(self.image_size)

    @property
    def channels(self) -> int:
        """The number of image channels. ConfigError: it is auto, which only training knows."""
        if self.image_channels == "auto":
            raise ConfigError("--image_channels auto: there are no cases to take the number from; give the number")
        return self.image_channels

    @property
    def multipliers(self) -> tuple[int, ...]:
        """The channel multiplier of each level. ConfigError: none given, and no default for this image size."""
        size, multipliers = show_size(self.size), self.channel_mult or DEFAULT_CHANNEL_MULT.get(max(self.size))
        if multipliers is None:
            raise ConfigError(f"--image_size {size} has no default --channel_mult: pass one, e.g. --channel_mult 1,2,4")
        return multipliers


class TimestepEmbedSequential(nn.Sequential):
    """A sequence that passes the timestep embedding to its residual blocks."""

    def forward(  # type: ignore[override]  # nn.Sequential passes one input
        self, x: Float[Tensor, "B C_in H_in W_in"], emb: Float[Tensor, "#B E"]
    ) -> Float[Tensor, "B C_out H W"]:
        """Apply the layers in turn."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """A residual block modulated by the timestep embedding.

    resample  Upsample or Downsample between the first activation and convolution; None: keep the resolution
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: UNetConfig, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.use_checkpoint, self.use_scale_shift_norm = config.use_checkpoint, config.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            normalization(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.h_upd = resample(in_channels, use_conv=False) if resample else nn.Identity()
        self.x_upd = resample(in_channels, use_conv=False) if resample else nn.Identity()
        modulations = 2 * out_channels if config.use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(EMBEDDING * config.num_channels, modulations))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C_in H_in W_in"], emb: Float[Tensor, "#B E"]) -> Float[Tensor, "B C_out H W"]:
        """Transform `x`; `emb` has a single row if all timesteps are equal."""
        return checkpoint(self._forward, x, emb, flag=self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.h_upd(norm_silu(self.in_layers[0], x)))
        emb, norm = self.emb_layers(emb).type(h.dtype), self.out_layers[0]
        if self.use_scale_shift_norm:
            h = norm_silu(norm, h, *emb.chunk(2, dim=1))
        else:
            h = norm_silu(norm, h + emb[:, :, None, None])
        h = self.out_layers[2:](h)
        return self.skip_connection(self.x_upd(x)) + h


class UNetModel(nn.Module):
    """The U-Net: maps an image concatenated with a noisy mask, and the timesteps, to the raw output.

    in_channels     channels of x; default: those of the image, and a mask of one channel
    autocast_dtype  attribute: autocast precision, bfloat16 or float16; None: float32
    ConfigError: the configuration cannot be built; the message names the flag.
    """

    def __init__(self, config: UNetConfig, out_channels: int, in_channels: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.autocast_dtype: torch.dtype | None = torch.float16 if config.use_fp16 else None
        check_unet(config)
        emb_channels = EMBEDDING * config.num_channels
        self.time_embed = nn.Sequential(
            nn.Linear(config.num_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if config.class_cond:
            self.label_emb = nn.Embedding(NUM_CLASSES, emb_channels)

        self.input_blocks, skips = build_input_blocks(in_channels or config.channels + 1, config)
        ch, heads = skips[-1], config.num_heads
        self.middle_block = TimestepEmbedSequential(
            ResBlock(ch, ch, config), attention_block(ch, heads, config), ResBlock(ch, ch, config)
        )
        self.output_blocks = build_output_blocks(skips, config)
        ch = skips[0]
        self.out = nn.Sequential(normalization(ch), nn.SiLU(), zero_module(nn.Conv2d(ch, out_channels, 3, padding=1)))

    def encode(self, image: Float[Tensor, "N C H W"]) -> tuple[Tensor, ...]:
        """What can be computed of images without masks: nothing."""
        return ()

    def bind(
        self, image: Float[Tensor, "N C H W"], rows: Int[Tensor, "B"] | None = None, known: Sequence[Tensor] = ()
    ) -> Denoise:
        """`denoise(x, timesteps)` for these images.

        rows   index of each mask's image; None: one mask per image
        known  encode(image), if it was called already
        """
        image = image if rows is None else image[rows]
        return lambda x, timesteps: self(torch.cat([image, x], dim=1), timesteps)

    def forward(
        self, x: Maps, timesteps: Real[Tensor, "#B"], y: Int[Tensor, "B"] | None = None, first: Maps | None = None
    ) -> Maps:
        """Compute the raw output, in float32.

        timesteps  a single value if it is the same for all rows
        y          class of each image, 0 or 1; required with class_cond and refused without it
        first      added to the output of the first convolution
        """
        if (y is not None) != self.config.class_cond:
            given = "no classes were given" if y is None else "classes were given"
            raise ConfigError(f"--class_cond {self.config.class_cond}, but {given}")
        emb = self.time_embed(timestep_embedding(timesteps, self.config.num_channels))
        if y is not None:
            emb = emb + self.label_emb(y)

        with torch.autocast(x.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            h = self.input_blocks[0](x, emb)
            skips = [h if first is None else h + first]
            for module in self.input_blocks[1:]:
                skips.append(module(skips[-1], emb))
            h = self.middle_block(skips[-1], emb)
            for module in self.output_blocks:
                h = module(torch.cat([h, skips.pop()], dim=1), emb)
            return self.out[2](norm_silu(self.out[0], h)).float()


def build_input_blocks(in_channels: int, config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """The encoder, and the output channels of each block; every block, resampling ones included, feeds a skip."""
    ch, last = config.multipliers[0] * config.num_channels, len(config.multipliers) - 1
    blocks, skips = nn.ModuleList([TimestepEmbedSequential(nn.Conv2d(in_channels, ch, 3, padding=1))]), [ch]
    for level, m in enumerate(config.multipliers):
        for _ in range(config.num_res_blocks):
            blocks.append(residual_block(ch, m * config.num_channels, level, config.num_heads, config))
            ch = m * config.num_channels
            skips.append(ch)
        if level < last:
            blocks.append(TimestepEmbedSequential(resampling_layer(Downsample, ch, config)))
            skips.append(ch)
    return blocks, skips


def build_output_blocks(skips: Sequence[int], config: UNetConfig) -> nn.ModuleList:
    """The decoder; each block takes the previous output and one skip, in reverse order."""
    blocks, skips, heads = nn.ModuleList(), list(skips), config.num_heads_upsample or config.num_heads
    ch = skips[-1]
    for level, m in reversed(list(enumerate(config.multipliers))):
        for i in range(config.num_res_blocks + 1):
            block = residual_block(ch + skips.pop(), m * config.num_channels, level, heads, config)
            ch = m * config.num_channels
            if level > 0 and i == config.num_res_blocks:
                block.append(resampling_layer(Upsample, ch, config))
            blocks.append(block)
    return blocks


def residual_block(in_channels: int, width: int, level: int, heads: int, config: UNetConfig) -> TimestepEmbedSequential:
    """A residual block, followed by attention if the level's resolution has it."""
    block = TimestepEmbedSequential(ResBlock(in_channels, width, config))
    if 2**level in {max(config.size) // resolution for resolution in config.attention_resolutions}:
        block.append(attention_block(width, heads, config))
    return block


def attention_block(channels: int, num_heads: int, config: UNetConfig) -> AttentionBlock:
    """Self-attention over `channels`."""
    heads = count_heads(channels, num_heads, config)
    return AttentionBlock(channels, heads, config.use_new_attention_order, config.use_checkpoint)


def resampling_layer(kind: Resample, channels: int, config: UNetConfig) -> nn.Module:
    """The layer that changes the resolution between two levels."""
    if config.resblock_updown:
        return ResBlock(channels, channels, config, resample=kind)
    return kind(channels, use_conv=True)


def count_heads(channels: int, num_heads: int, config: UNetConfig) -> int:
    """Attention heads for `channels`: num_heads, or derived from config.num_head_channels."""
    per_head = config.num_head_channels
    name, divisor = ("num_heads", num_heads) if per_head is None else ("num_head_channels", per_head)
    if channels % divisor:
        raise ConfigError(f"--{name} {divisor} does not divide the {channels} channels of an attention block")
    return num_heads if per_head is None else channels // per_head


def check_unet(config: UNetConfig) -> None:
    """Raise a ConfigError that names the flag if the U-Net cannot be built."""
    halvings = len(config.multipliers) - 1
    if any(side % 2**halvings for side in config.size):
        raise ConfigError(
            f"--image_size {show_size(config.size)} cannot be halved {halvings} times for the {halvings + 1} levels of "
            f"--channel_mult: use multiples of {2**halvings}, or fewer levels"
        )
