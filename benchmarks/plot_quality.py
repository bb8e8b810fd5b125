r"""Tables and a plot of the results of benchmarks/quality.py.

    python benchmarks/plot_quality.py \
        --results benchmarks/results/quality_phantom.json,benchmarks/results/quality_lidc.json

Prints a table per file, with the cheapest settings whose GED is within one standard error of the reference, and plots
with matplotlib (pip install matplotlib).
"""

import json
import os
from typing import Annotated

from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config

FIGURES = ("ged", "hm_iou", "calibration")


@config()
class PlotConfig:
    results: Annotated[tuple[str, ...], Flag("result files of benchmarks/quality.py")] = ()
    out: Annotated[str, Flag("output file of the plot")] = "docs/quality.png"


def label(row):
    return row["sampler"] + (f", eta {row['eta']:g}" if row["sampler"] != "ddpm" else "")


def figure_names(row):
    """The row's names of FIGURES, with the number of samples as suffix."""
    return [next(name for name in row if name.rsplit("_", 1)[0] == figure) for figure in FIGURES]


def print_table(result):
    """A table with a row per sampler and a column per number of steps.

    Values within one standard error of the reference are bold.
    """
    rows = result["rows"]
    ged, hm_iou, calibration = figure_names(rows[0])
    reference, counts = rows[0][ged], list(dict.fromkeys(row["steps"] for row in rows))
    within = [row for row in rows if row[ged]["mean"] <= reference["mean"] + reference["se"]]
    setting = f"{result['cases']} cases of {result['data']}, {result['model']}, {result['machine']}"
    print(f"\n{ged} ± standard error (HM-IoU, calibration error), {setting}\n")
    print(f"| sampler | {' | '.join(map(str, counts))} |\n|{'---|' * (len(counts) + 1)}")
    for name in dict.fromkeys(map(label, rows)):
        cells = {}
        for row in (row for row in rows if label(row) == name):
            score = f"{row[ged]['mean']:.3f} ± {row[ged]['se']:.3f}"
            score = f"**{score}**" if row in within else score
            cells[row["steps"]] = f"{score} ({row[hm_iou]['mean']:.2f}, {row[calibration]['mean']:.3f})"
        print(f"| {name} | {' | '.join(cells.get(count, '-') for count in counts)} |")
    least = min(row["steps"] for row in within)
    cheapest = "; ".join(label(row) for row in within if row["steps"] == least)
    print(f"\nwithin one standard error at {least} steps: {cheapest}")


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(results), figsize=(4.6 * len(results), 3.8), layout="constrained", squeeze=False
    )
    for axis, result in zip(axes[0], results, strict=True):
        ged = figure_names(result["rows"][0])[0]
        for name in dict.fromkeys(map(label, result["rows"])):
            rows = sorted((row for row in result["rows"] if label(row) == name), key=lambda row: row["steps"])
            axis.plot(
                [row["steps"] for row in rows], [row[ged]["mean"] for row in rows], "o-", label=name, markersize=3
            )
        first = result["rows"][0][ged]
        axis.axhspan(
            first["mean"] - first["se"],
            first["mean"] + first["se"],
            alpha=0.15,
            color="grey",
            label="reference, one s. e.",
        )
        ticks = sorted({row["steps"] for row in result["rows"]})
        axis.set(
            xscale="log",
            xticks=ticks,
            xticklabels=ticks,
            xlabel="steps",
            ylabel=ged,
            ylim=(0, 0.8),
            title=result["name"],
        )
        axis.minorticks_off()
    axes[0][-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    with command_line.one_line_errors("benchmarks/plot_quality.py"):
        config = command_line.parse_command_line((PlotConfig,), __doc__)[PlotConfig]
        results = []
        for path in config.results:
            name = os.path.basename(path).removeprefix("quality_").removesuffix(".json")
            with open(path, encoding="utf-8") as file:
                results.append({**json.load(file), "name": name})
            print_table(results[-1])
        draw(results, config.out)


if __name__ == "__main__":
    main()
