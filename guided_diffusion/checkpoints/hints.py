"""Which flag most likely explains weights that do not fit."""

import re

from torch import Tensor


def likely_flag(name: str, found: Tensor | None, wanted: Tensor | None) -> str:
    """The flag that most likely explains why the weight `name` is `found` in a checkpoint and `wanted` in the model."""
    if "label_emb" in name:
        return "--class_cond"
    if found is not None and wanted is not None:
        if name.endswith("input_blocks.0.0.weight") and found.shape[1] != wanted.shape[1]:
            return (
                f"--image_channels; the checkpoint takes {found.shape[1]} channels, image and mask together, "
                f"this model {wanted.shape[1]} (a model of 3 makes pictures, not masks)"
            )
        if "emb_layers" in name and found.shape[0] in (2 * wanted.shape[0], wanted.shape[0] // 2):
            return "--use_scale_shift_norm"
    return _flag_of_part(name)


def _flag_of_part(name: str) -> str:
    """The flag that decides the part of the model that the weight `name` is in."""
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
