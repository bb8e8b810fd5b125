r"""Plots the samples of several models for the same cases, below the raters' masks.

    python benchmarks/plot_samples.py --data_dir results/phantom/many \
        --samples results/comparison_long/tuned/samples,results/comparison_long/ssn/samples

Each case has a row with its image and raters, and a row per model.
"""

import os
from typing import Annotated

import numpy as np

from guided_diffusion.errors import DataError
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks.pictures import grid
from guided_diffusion.masks.postprocess import binarise
from guided_diffusion.sampling.store import find_samples, foreign_rule


@config()
class PlotConfig:
    data_dir: Annotated[str, Flag("folder of cases of one size")] = ""
    samples: Annotated[tuple[str, ...], Flag("folders of samples, METHOD/samples")] = ()
    num_cases: Annotated[int, Flag("number of cases, from the first")] = 2
    num_shown: Annotated[int, Flag("samples per case")] = 8
    out: Annotated[str, Flag("output file of the picture")] = "docs/samples.png"


def rows_of(case, folders, num_shown):
    """[[(label, tile)]] of a case: its image and raters, and a row for the samples of each folder."""
    image, blank = case.image[0].numpy(), np.ones(case.image.shape[1:])
    rows = [[("image", image), *((f"rater {k}", mask) for k, mask in enumerate(case.raters.numpy()[:num_shown]))]]
    for folder in folders:
        found = find_samples(folder, case.id, lambda: foreign_rule(folder, [case.id]))
        if found is None:
            raise DataError(f"{folder}: no samples of {case.id}")
        method = os.path.basename(os.path.dirname(os.path.abspath(folder)))
        rows.append([("", blank), *((f"{method} {k}", mask) for k, mask in enumerate(binarise(found[0])[:num_shown]))])
    return rows


def main():
    with command_line.one_line_errors("benchmarks/plot_samples.py"):
        config = command_line.parse_command_line((PlotConfig,), __doc__)[PlotConfig]
        cases = LIDCDataset(config.data_dir, image_channels=1)
        rows = []
        for index in range(config.num_cases):
            rows += rows_of(cases[index], config.samples, config.num_shown)
        grid(rows).save(config.out)


if __name__ == "__main__":
    main()
