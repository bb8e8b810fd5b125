r"""Sample quality as a function of the number of steps, for every sampler.

    python benchmarks/quality.py --data_dir results/quality/phantom/testing \
        --model_path results/quality/phantom/model/savedmodel.pt --out benchmarks/results/quality_phantom.json

Samples the same cases with each sampler and number of steps, and scores them: GED, Hungarian-matched IoU, calibration
error. The first row is DDPM with all steps; the others also have paired differences from it.
"""

import os
import time
from typing import Annotated

import numpy as np
import torch
from machine import machine_name
from running import write_json

from guided_diffusion import script_util
from guided_diffusion.data.config import DataConfig
from guided_diffusion.evaluation.summary import mean_and_interval
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks import metrics
from guided_diffusion.masks.postprocess import binarise
from guided_diffusion.sampling.config import SampleConfig
from guided_diffusion.sampling.draw import draw_ensembles
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.system.device import ComputeConfig, compile_model, prepare
from guided_diffusion.unet import UNetConfig

SAMPLERS = (("ddpm", 0.0), ("ddim", 0.0), ("dpm++", 0.0), ("dpm++", 1.0))
STEPS = (1000, 250, 100, 50, 20, 10, 5, 2)
FIGURES = {
    "ged": lambda s, r: metrics.squared_ged(s, r).total,
    "hm_iou": metrics.hungarian_iou,
    "calibration": metrics.calibration_error,
}


@config()
class QualityConfig:
    data_dir: Annotated[str, Flag("folder of cases with their raters")] = ""
    model_path: Annotated[str, Flag("checkpoint")] = ""
    cases: Annotated[int, Flag("cases, spread over the folder")] = 5
    num_ensemble: Annotated[int, Flag("masks per case")] = 16
    batch_size: Annotated[int, Flag("masks per batch")] = 40
    steps: Annotated[tuple[int, ...], Flag("numbers of steps; the first is the reference")] = STEPS
    spacing: Annotated[str, Flag("linear, quadratic or logsnr")] = "linear"
    out: Annotated[str, Flag("JSON file for the results")] = ""


def measure(config, compute_config, on_row):
    """Call on_row(row) for each sampler and number of steps."""
    model = script_util.load_segmenter(config.model_path, {})
    segmenter, unet = model.segmenter, model.configs[UNetConfig]
    prepare(segmenter, compute_config, "cuda" if torch.cuda.is_available() else "cpu")
    if compute_config.compile:
        compile_model(segmenter)
    dataset = LIDCDataset(config.data_dir, unet.image_size, unet.channels, model.configs[DataConfig])
    indices = [int(k) for k in np.unique(np.linspace(0, len(dataset) - 1, config.cases).round())]
    drawn = SampleConfig(num_ensemble=config.num_ensemble, batch_size=config.batch_size)
    reference = None
    for steps in config.steps:
        for name, eta in SAMPLERS:
            sampler = SamplerConfig(name, steps, config.spacing, eta)
            start, values = time.perf_counter(), {figure: [] for figure in FIGURES}
            for case, samples in draw_ensembles(
                segmenter.spaced(sampler), dataset, indices, drawn, sampler, even=compute_config.compile
            ):
                masks, raters = binarise(samples), case.raters.numpy() > 0.5
                for figure, function in FIGURES.items():
                    values[figure].append(float(function(masks, raters)))
            values = {figure: np.array(v) for figure, v in values.items()}
            reference = reference or values
            scores = {f"{figure}_{config.num_ensemble}": mean_and_interval(v) for figure, v in values.items()}
            scores["ged_less_reference"] = mean_and_interval(values["ged"] - reference["ged"])
            on_row({"sampler": name, "eta": eta, "steps": steps, "seconds": time.perf_counter() - start, **scores})


def main():
    with command_line.one_line_errors("benchmarks/quality.py"):
        config, compute_config = command_line.parse_command_line((QualityConfig, ComputeConfig), __doc__)
        rows, names = [], [f"{figure}_{config.num_ensemble}" for figure in FIGURES]

        def on_row(row):
            rows.append(row)
            figures = "  ".join(f"{name} {row[name]['mean']:.3f} +- {row[name]['se']:.3f}" for name in names)
            setting = f"{row['sampler']:6s} eta {row['eta']:g} steps {row['steps']:4d}"
            print(f"{setting}  {figures}  {row['seconds']:.0f} s", flush=True)
            if config.out:  # after every row, because the benchmark takes long
                os.makedirs(os.path.dirname(os.path.abspath(config.out)), exist_ok=True)
                given = {"model": config.model_path, "data": config.data_dir, "cases": config.cases}
                write_json(config.out, {"machine": machine_name(), **given, "rows": rows})

        measure(config, compute_config, on_row)


if __name__ == "__main__":
    main()
