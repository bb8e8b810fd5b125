"""Guesses which flag explains weights that do not fit the model."""

import re

from torch import Tensor


def likely_flag(name: str, found: Tensor | None, expected: Tensor | None) -> str:
    """The flag that most likely explains why the weight `name` in the checkpoint differs from the model's.

    found, expected  the weight in the checkpoint and in the model; None: it is missing there
    """
    if "label_emb" in name:
        return "--class_cond"
    if found is not None and expected is not None:
        if name.endswith("input_blocks.0.0.weight") and found.shape[1] != expected.shape[1]:
            return (
                f"--image_channels; the checkpoint takes {found.shape[1]} channels, image and mask together, "
                f"this model {expected.shape[1]} (a model with 3 channels generates images, not masks)"
            )
        if "emb_layers" in name and found.shape[0] in (2 * expected.shape[0], expected.shape[0] // 2):
            return "--use_scale_shift_norm"
    return _flag_of_part(name)


def _flag_of_part(name: str) -> str:
    """The flag that determines the part of the model with the weight `name`."""
    if "encoder.out.2." in name:
        return "--encoder_guesses or --feature_channels"
    if re.search(r"\bout\.2\.", name):
        return "--learn_sigma"
    if "time_embed" in name or "input_blocks.0." in name:
        return "--num_channels"
    if re.search(r"qkv|proj_out|\.norm\.", name):
        return "--attention_resolutions"
    if name.startswith(("prior.", "posterior.")):
        return "--num_filters, --latent_dim or --no_convs_per_block"
    return "--channel_mult, --num_res_blocks or --resblock_updown"
