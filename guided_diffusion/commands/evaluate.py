"""Score the samples of each case against its raters.

    python scripts/segmentation_evaluate.py --data_dir data/testing --samples results/samples

Writes metrics.csv (a row per case), metrics.json (a summary) and report.html (a page with all cases) next to the
samples. docs/metrics.md defines the metrics. To compare several folders, with paired differences:

    python scripts/segmentation_evaluate.py --data_dir data/testing --samples results/a --compare results/b,results/c
"""

from collections.abc import Sequence

from ..data.config import DataConfig
from ..data.described import described
from ..data.stores.case_cache import find_labelled
from ..evaluation.case_figures import EvaluateConfig
from ..evaluation.summary import evaluate
from ..flags import command_line
from ..flags.configs import pick_flags
from ..masks.postprocess import PostprocessConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        flags = command_line.parse_command_line((EvaluateConfig, PostprocessConfig, DataConfig), __doc__, argv)
        config, names = flags[EvaluateConfig], None
        if flags[DataConfig].skip_unlabelled:
            data = described(flags[DataConfig], config.data_dir)
            names = {name for name, _ in find_labelled(config.data_dir, data, print, one_set=True)}
        evaluate(config, pick_flags(flags.given, PostprocessConfig, DataConfig), names)


if __name__ == "__main__":
    main()
