"""The biased GED as a function of the number of samples, compared with theory.

    python benchmarks/ged_against_count.py --data_dir data/testing --samples results/demo/many

Theory: E[GED_N] = GED_inf + E d(S, S') / N. The two constants are estimated from the second half of each case's
samples, and GED_N is measured on the first half, so that agreement is not by construction. Plots with matplotlib
(pip install matplotlib).
"""

from typing import Annotated

import numpy as np
from running import write_json

from guided_diffusion.data.case_reader import CaseReader
from guided_diffusion.data.files.case_files import find_cases
from guided_diffusion.errors import ConfigError
from guided_diffusion.evaluation.summary import mean_and_interval
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.masks import metrics
from guided_diffusion.masks.postprocess import binarise
from guided_diffusion.sampling import store
from guided_diffusion.sampling.config import postprocess_of


@config()
class PlotConfig:
    data_dir: Annotated[str, Flag("folder of cases with their raters")] = ""
    samples: Annotated[str, Flag("folder of their samples, many per case")] = ""
    out: Annotated[str, Flag("output file of the plot")] = "docs/ged_against_count.png"
    json: Annotated[str, Flag("JSON file for the results")] = "benchmarks/results/ged_against_count.json"


def measure(config):
    """{"at_infinity", "diversity", "points": [{"N", "theory", mean_and_interval of the measured GED}]}."""
    measured, constants = {}, []
    for name, folder in find_cases(config.data_dir):
        found = store.find_samples(config.samples, name, lambda: store.foreign_rule(config.samples, [name]))
        if found is None:
            continue
        masks = binarise(found[0], postprocess_of(found[1]))
        raters = CaseReader(masks.shape[1:]).read(folder).raters
        half = len(masks) // 2
        count = 1
        while count <= half:
            measured.setdefault(count, []).append(float(metrics.squared_ged(masks[:count], raters).total))
            count *= 2
        other = metrics.squared_ged(masks[half:], raters)
        diversity = float(metrics.diversity(masks[half:]))
        constants.append((float(2 * other.cross - other.within_raters) - diversity, diversity))
    if not measured:
        raise ConfigError(f"--samples {config.samples}: at least two samples per case are needed")
    at_infinity, diversity = np.mean(constants, axis=0)
    points = [{"N": N, "theory": at_infinity + diversity / N, **mean_and_interval(v)} for N, v in measured.items()]
    return {"at_infinity": at_infinity, "diversity": diversity, "points": points}


def draw(result, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    N, mean, low, high = (np.array([p[key] for p in result["points"]]) for key in ("N", "mean", "low", "high"))
    fine = np.geomspace(N[0], N[-1], 100)
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.errorbar(
        N, mean, (mean - low, high - mean), fmt="o", capsize=3, label="measured, with 95 % interval over cases"
    )
    axes.plot(fine, result["at_infinity"] + result["diversity"] / fine, label="GED_inf + E d(S, S') / N")
    axes.set(xscale="log", xticks=N, xticklabels=N, xlabel="number of samples N", ylabel="GED", ylim=(0, None))
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=110)


def main():
    with command_line.one_line_errors("benchmarks/ged_against_count.py"):
        config = command_line.parse_command_line((PlotConfig,), __doc__)[PlotConfig]
        result = measure(config)
        for point in result["points"]:
            measured = f"{point['mean']:.4f} ({point['low']:.4f} to {point['high']:.4f})"
            print(f"N {point['N']:3d}  measured {measured}  theory {point['theory']:.4f}")
        write_json(config.json, result)
        draw(result, config.out)


if __name__ == "__main__":
    main()
