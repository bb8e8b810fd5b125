r"""Compare methods on the same cases with equal training effort.

    python scripts/compare.py --data_dir data/training --test_dir data/testing --truth data/testing/truth.json \
        --methods cimd-small,prob-unet,ssn --budget_minutes 10 --lrs 3e-4,1e-3 --image_size 32 \
        --out_dir results/comparison

Writes comparison.md, comparison.html, and report.html with all metrics and cases. Flags of model, data and sampler
apply to each method that reads them. Rerun the command to resume; more --methods may be added.
"""

import json
import os
from collections.abc import Sequence

from ..compare import page
from ..compare.config import CompareConfig, check_folders
from ..compare.runner import RunCommand, run_command
from ..compare.stages import Comparison
from ..compare.table import SCORED
from ..data.config import DataConfig
from ..data.described import with_classes
from ..errors import DataError
from ..flags import command_line
from ..flags.configs import Configs, Flags, pick_flags
from ..flags.rules import check_rules
from ..methods.registry import MODEL_CONFIGS, MethodConfig
from ..sampling.samplers import SamplerConfig
from ..system import storage

FLAGS = (*MODEL_CONFIGS, DataConfig, SamplerConfig)


def stated_classes(config: DataConfig, directory: str, test_dir: str) -> Flags:
    """{flag: value} of the classes that the cases state, for the links to them, which have no dataset.json.

    DataError: those to score on state others.
    """
    stated, tested = (
        with_classes(config, x) if os.path.isdir(x) else config for x in (directory, test_dir or directory)
    )
    values = {"classes": stated.classes, "ignore_label": stated.ignore_label}
    if values != {"classes": tested.classes, "ignore_label": tested.ignore_label}:
        described = [",".join(one.classes) or "none" for one in (stated, tested)]
        raise DataError(
            f"--test_dir {test_dir}: states the classes {described[1]}, and --data_dir {directory} states "
            f"{described[0]}: give both the same classes, levels and ignored level in dataset.json"
        )
    return {name: value for name, value in values.items() if value not in ((), None)}


def main(argv: Sequence[str] | None = None, run_command: RunCommand = run_command) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        flags = command_line.parse_command_line((CompareConfig, *FLAGS), __doc__, argv)
        check_rules(Configs([flags[CompareConfig], flags[MethodConfig]], flags.given))
        config = flags[CompareConfig]
        check_folders(config)
        given = {
            **pick_flags(flags.given, *FLAGS),
            **stated_classes(flags[DataConfig], config.data_dir, config.test_dir),
        }
        table = Comparison(config, given, run_command=run_command).run()
        score = f"ged_{SCORED}"
        pages = {
            "comparison.json": json.dumps(table, indent=1) + "\n",
            "comparison.md": page.markdown(table, config.num_ensemble),
            "comparison.html": page.page(table, config.num_ensemble, score),
        }
        for name, text in pages.items():
            storage.write_text(os.path.join(config.out_dir, name), text)
        print(pages["comparison.md"])


if __name__ == "__main__":
    main()
