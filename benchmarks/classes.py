r"""Time and memory of training and sampling against the number of classes, at 64x128 pixels.

    python benchmarks/classes.py --out benchmarks/results/classes_cpu.json

For each number of classes, a network of the tuned preset with small channels trains on shapes of make_phantom.py with
--kind flips and draws masks, each in a process of its own on one core. Times are processor times of a step and of a
mask, from the difference of two lengths; memory is the largest resident set, with that of Python and torch.
"""

import json
import os
import tempfile
from typing import Annotated

from machine import machine_name
from running import measure, run, write_json

from guided_diffusion.compare.method_run import as_arguments
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config

FLAGS = {
    "preset": "tuned", "image_size": "64,128", "image_channels": 3, "num_channels": 32, "num_res_blocks": 1,
    "channel_mult": "1,1", "denoiser_mult": "1,1", "attention_resolutions": 32, "augment": "flip", "batch_size": 8,
}  # fmt: skip
STEPS = (5, 20)  # of the two trainings
CASES = (2, 6)  # of the two samplings
MASKS = 8  # of each case


@config()
class ClassesConfig:
    classes: Annotated[tuple[int, ...], Flag("numbers of classes", at_least=1)] = (1, 2, 5, 10, 19)
    out: Annotated[str, Flag("JSON file for the results")] = ""


def of_classes(count, folder):
    """The times and memory of a number of classes; one class is the first of two."""
    cases, run_dir = os.path.join(folder, "cases"), os.path.join(folder, "run")
    size = ("--size=64,128", f"--num_classes={max(2, count)}", f"--num_cases={CASES[1]}")
    run("make_phantom", "--kind=flips", f"--out={cases}", *size)
    labels = ["--structure=1"] if count == 1 else []
    trained = []
    for steps in STEPS:
        values = {**FLAGS, "log_dir": f"{run_dir}{steps}", "data_dir": cases}
        values |= {"iterations": steps, "lr_anneal_steps": steps}
        trained.append(measure("segmentation_train", *as_arguments(values), *labels))
    model = os.path.join(f"{run_dir}{STEPS[0]}", "savedmodel.pt")
    drawn = []
    for number in CASES:
        more = (f"--num_samples={number}", f"--num_ensemble={MASKS}", "--batch_size=8", "--weights=raw")
        out = f"--out_dir={os.path.join(folder, f'samples{number}')}"
        drawn.append(measure("segmentation_sample", f"--data_dir={cases}", f"--model_path={model}", out, *more))
    return {
        "classes": count,
        "seconds_per_step": (trained[1][0] - trained[0][0]) / (STEPS[1] - STEPS[0]),
        "training_mb": trained[1][1],
        "seconds_per_mask": (drawn[1][0] - drawn[0][0]) / (MASKS * (CASES[1] - CASES[0])),
        "sampling_mb": drawn[1][1],
    }


def main():
    with command_line.one_line_errors("benchmarks/classes.py"):
        config = command_line.parse_command_line((ClassesConfig,), __doc__)[ClassesConfig]
        rows = []
        for count in config.classes:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(of_classes(count, folder))
            print(json.dumps(rows[-1]), flush=True)
        write_json(config.out, {"machine": machine_name(), "flags": FLAGS, "rows": rows})


if __name__ == "__main__":
    main()
