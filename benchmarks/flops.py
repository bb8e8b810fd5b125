"""Computational cost of the presets' networks, counted rather than timed.

    python benchmarks/flops.py --networks tuned,cimd-small,cimd

Counts the floating-point operations of a network call, and those needed once per image.
"""

from typing import Annotated

import torch
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion import script_util
from guided_diffusion.flags import command_line
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.methods.registry import MODEL_CONFIGS, PRESETS
from guided_diffusion.unet import UNetConfig

MASKS, CALLS = 100, 20  # of the ensemble whose cost is printed
IMAGE_CHANNELS = 4  # as published


@config()
class FlopsConfig:
    networks: Annotated[tuple[str, ...], Flag("presets of diffusion methods")] = ("tuned", "cimd-small", "cimd")


@torch.inference_mode()
def count(preset):
    """(GFLOP once per image, GFLOP per call for one mask) of a preset's network."""
    configs = configs_from_flags({**PRESETS[preset], "image_channels": IMAGE_CHANNELS}, *MODEL_CONFIGS)
    segmenter, unet = script_util.create_segmenter(configs).eval(), configs[UNetConfig]
    image = torch.zeros(1, unet.channels, *unet.size)
    with FlopCounterMode(display=False) as once:
        denoise = segmenter.denoiser(image)
    with FlopCounterMode(display=False) as call:
        denoise(image[:, :1], torch.zeros(1, dtype=torch.long))
    return once.get_total_flops() / 1e9, call.get_total_flops() / 1e9


def main():
    with command_line.one_line_errors("benchmarks/flops.py"):
        config = command_line.parse_command_line((FlopsConfig,), __doc__)[FlopsConfig]
        print(f"| preset | GFLOP per image | GFLOP per call | GFLOP for 1 mask of {CALLS} calls | for {MASKS} masks |")
        print("|---|---|---|---|---|")
        for preset in config.networks:
            once, call = count(preset)
            one, all_masks = once + CALLS * call, once + MASKS * CALLS * call
            print(f"| {preset} | {once:.1f} | {call:.1f} | {one:,.0f} | {all_masks:,.0f} |")


if __name__ == "__main__":
    main()
