"""Write a model folder from a checkpoint: weights, settings, model card and picture, to share or to upload.

    python scripts/export.py --model_path results/mine/bestmodel.pt --out results/mymodel --license CC-BY-4.0

Sampling, evaluation, training and Python take the folder in place of a checkpoint. A checkpoint stores its model flags.
Checkpoints of the published code do not: give theirs on the command line. Flags of the sampler become the model's.
"""

import os
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from .. import script_util
from ..checkpoints.files import fingerprint
from ..checkpoints.format import Checkpoint
from ..checkpoints.load import load_checkpoint
from ..checkpoints.location import MODEL_WEIGHTS
from ..checkpoints.model_folder import CARD, PICTURE, Model, check_target, write_model, written_whole
from ..data.config import DataConfig
from ..errors import ConfigError
from ..flags import command_line
from ..flags.configs import Configs, pick_flags
from ..flags.fields import Flag, config
from ..methods.registry import MODEL_CONFIGS, PRESETS
from ..sampling.config import SampleConfig
from ..sampling.samplers import SamplerConfig
from ..system import storage
from .model_card.card import card
from .model_card.figures import Figures, read_figures
from .model_card.picture import draw_picture, read_picture


def spdx(value: str) -> str | None:
    """For an SPDX identifier of a licence."""
    return None if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*|", value) else "must be an SPDX identifier, e.g. CC-BY-4.0"


@config()
class ExportConfig:
    """What to export, and what its model card says."""

    model_path: Annotated[
        str, Flag("checkpoint, model folder, shipped name, or hf://OWNER/NAME to export", required=True)
    ] = ""
    out: Annotated[
        str, Flag("model folder to write; one of an earlier export is replaced", required=True, local=True)
    ] = ""
    dtype: Annotated[Literal["float32", "bf16"], Flag("precision of the stored weights")] = "float32"
    weights: Annotated[Literal["ema", "raw"], Flag("averaged weights, or those of the last step")] = "ema"
    metrics: Annotated[
        str, Flag("metrics.json of an evaluation of this model, for the figures of the card; empty: no figures")
    ] = ""
    license: Annotated[str, Flag("licence of the weights, an SPDX identifier; empty: not named", check=spdx)] = ""
    data_description: Annotated[str, Flag("the training data in one line; empty: not described")] = ""
    picture: Annotated[str, Flag("picture of the card; empty: samples for a synthetic image, never a patient's")] = ""


CONFIGS = (ExportConfig, SamplerConfig, DataConfig, *MODEL_CONFIGS)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        presets = {name: pick_flags(preset, *CONFIGS) for name, preset in PRESETS.items()}
        for line in export(command_line.parse_command_line(CONFIGS, __doc__, argv, presets)):
            print(line)


def export(flags: Configs) -> list[str]:
    """Write the model folder; returns lines to print.

    ConfigError, CheckpointError: a flag or the checkpoint cannot be used; an existing folder is unchanged.
    """
    given = flags[ExportConfig]
    check_target(given.out)
    figures = read_figures(given.metrics) if given.metrics else None
    picture = read_picture(given.picture) if given.picture else None
    model, configs = model_of(flags)
    with written_whole(given.out) as folder:
        write_model(folder, model)
        rounded = figures is not None and is_rounded(given, figures, model, fingerprint(folder))
        storage.write_bytes(os.path.join(folder, PICTURE), picture or draw_picture(folder))
        more = {"license": given.license, "data": given.data_description, "own_picture": bool(picture)}
        name = os.path.basename(os.path.abspath(given.out))
        storage.write_text(os.path.join(folder, CARD), card(name, model, configs, figures, rounded=rounded, **more))
    return lines_on(given, model)


def model_of(flags: Configs) -> tuple[Model, Configs]:
    """What to write, and the configs of data, model and sampler. CheckpointError: see script_util.load_segmenter."""
    given = flags[ExportConfig]
    named = pick_flags({**flags.preset, **flags.given}, DataConfig, *MODEL_CONFIGS)
    loaded = script_util.load_segmenter(given.model_path, named, given.weights)
    script_util.refuse_foreign_flags(flags.given, loaded.configs)
    with_sample = Configs([SampleConfig(), *flags], flags.given, flags.preset)
    sampler = script_util.choose_sampler(with_sample, loaded.configs, loaded.sampler)
    configs = Configs([sampler, *loaded.configs])

    stored = load_checkpoint(given.model_path, to_sample=True)
    averaged = given.weights == "ema" and bool(stored.ema)
    prefix = script_util.sampled_weights(loaded.configs)
    weights = loaded.segmenter.state_dict()
    checkpoint = Checkpoint(
        flags=loaded.configs.flags(),
        weights={name: value for name, value in weights.items() if name.startswith(prefix)},
        exported=stored.exported or ("ema" if averaged else "raw"),
        step=stored.step,
        samples=stored.samples,
        data=stored.data,
        reading=loaded.reading,
    )
    return Model(checkpoint, configs.flags(SamplerConfig), given.dtype, fingerprint(given.model_path)), configs


def is_rounded(given: ExportConfig, figures: Figures, model: Model, written: str) -> bool:
    """Whether the figures are of the weights before they were rounded to another precision.

    written  fingerprint of the written folder
    ConfigError: they are of samples of another model, or with other weights.
    """
    if figures.checkpoint == written:
        return False
    if figures.checkpoint != model.source:
        raise ConfigError(
            f"--metrics {given.metrics}: its samples are of another model ({figures.checkpoint or 'not stored'}, and "
            f"--model_path is {model.source}); score samples of this one"
        )
    weights = figures.settings.get("weights", given.weights)
    if weights != given.weights:
        raise ConfigError(
            f"--metrics {given.metrics}: its samples were drawn with --weights {weights}; export the same"
        )
    return given.dtype != "float32"


def lines_on(given: ExportConfig, model: Model) -> list[str]:
    """What was written, and what the card lacks."""
    size = os.path.getsize(os.path.join(given.out, MODEL_WEIGHTS)) / 1e6
    count = sum(tensor.numel() for tensor in model.checkpoint.weights.values())
    lines = [f"{count:,} weights in {given.dtype}, {size:.1f} MB, in {given.out}"]
    if not given.metrics:
        lines.append(
            "the model card has no figures; pass --metrics metrics.json, which segmentation_evaluate.py writes"
        )
    if not given.license:
        lines.append("the model card names no licence; pass --license, e.g. --license CC-BY-4.0")
    return lines


if __name__ == "__main__":
    main()
