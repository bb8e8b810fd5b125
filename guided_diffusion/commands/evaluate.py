"""Score the samples of every case against its raters:

    python scripts/segmentation_evaluate.py --data_dir data/testing --samples results/samples

Writes metrics.csv (a row per case), metrics.json (the summary) and report.html (the cases, to look at) beside the
samples. docs/metrics.md says what the figures are. Several folders side by side, with paired differences:

    python scripts/segmentation_evaluate.py --data_dir data/testing --samples results/a --compare results/b,results/c
"""

from ..data.case_reader import DataConfig
from ..evaluation.case_figures import EvaluateConfig
from ..evaluation.summary import evaluate
from ..flags import command_line
from ..flags.fields import configs_from_flags, pick_flags
from ..masks.postprocess import PostprocessConfig


def main(argv=None):
    with command_line.one_line_errors():
        given, _ = command_line.parse_command_line((EvaluateConfig, PostprocessConfig, DataConfig), __doc__, argv)
        config, *_ = configs_from_flags(given, EvaluateConfig, PostprocessConfig)  # which refuses what it cannot be
        evaluate(config, pick_flags(given, PostprocessConfig, DataConfig))


if __name__ == "__main__":
    main()
