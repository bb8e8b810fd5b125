"""The metrics of one case: its samples, in one folder or in several to compare, against its raters."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ConfigError, DataError
from ..flags.fields import Flag, config
from ..masks import fidelity, pictures
from ..masks.fidelity import Truth
from ..masks.pairs import Pairs, valid_pixels
from ..masks.postprocess import PostprocessConfig, binarise
from ..sampling.config import postprocess_of
from .class_figures import CaseMasks, figures_by_class, figures_of_raters, figures_of_samples, named, present_figures
from .drawn import CaseFiles, Scored, check_same_raters
from .table import OUTPUT_SIZE, PIXELS
from .truth import case_truth, read_truth

SAMPLES_SHOWN = 16  # on a case's sheet
MODE_IOU = 0.75  # a sample belongs to the true mode of largest IoU, if that IoU is at least this

# name -> description, in addition to metrics.FIGURES
MORE_FIGURES = {
    "ged_less_majority": "ged minus ged_of_majority; below 0, the samples are better ↓",
    "mode_tv": "total variation distance of the modes' frequencies in the samples to their true probabilities ↓",
    "mode_tv_of_perfect": "expected mode_tv of a perfect sampler",
    "implausible": "share of the samples that match no true mode ↓",
    "ged_of_truth": "expected ged of a perfect sampler",
    "ged_excess": "ged minus that of a perfect sampler ↓",
    "ged_unbiased_excess": "ged_unbiased minus that of a perfect sampler ↓",
    "joint_tv": "total variation distance of the frequencies of pairs of modes to their true probabilities ↓",
    "joint_tv_of_perfect": "expected joint_tv of a perfect sampler",
    "joint_information": "mutual information of the modes of both classes in the samples, in bits",
    "joint_information_of_truth": "mutual information of the modes of both classes, in bits",
    "joint_information_of_perfect": "expected joint_information of a perfect sampler",
    "joint_information_of_independent": "expected joint_information if both classes are drawn independently",
    "joint_excess": "joint_information minus that of a perfect sampler; below 0: drawn too independently",
    "ged_present": "ged with the mean IoU over the classes that either mask has ↓",
    "hm_iou_present": "hm_iou with the mean IoU over the classes that either mask has ↑",
    "ged_of_majority": "ged of a single answer for each case, the majority vote of its raters",
    "rater_diversity": "mean distance between two different raters; of cases with several",
}


@config()
class EvaluateConfig:
    """Which samples to score against which raters."""

    data_dir: Annotated[str, Flag("folder of cases with their raters", required=True)] = ""
    samples: Annotated[
        str, Flag("folder written by segmentation_sample.py, or masks ID_output0.png ... of any program")
    ] = "results/samples"
    compare: Annotated[tuple[str, ...], Flag("more such folders, DIR,DIR; each is compared with --samples")] = ()
    counts: Annotated[
        tuple[int, ...], Flag("score the first N samples of each case, e.g. 4,16,50; empty: all", at_least=1)
    ] = ()
    truth: Annotated[str, Flag("truth.json of phantoms, for the metrics that need the true distribution")] = ""
    absent_classes: Annotated[
        Literal["count", "skip"],
        Flag(
            "a class that neither of two masks has: IoU 1 (count); skip: also report GED and HM-IoU without it, "
            "as some papers do"
        ),
    ] = "count"
    report: Annotated[bool, Flag("write report.html")] = True
    out_dir: Annotated[
        str, Flag("folder for metrics.csv, metrics.json and report.html; empty: the folder of --samples", local=True)
    ] = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of samples, --samples first."""
        return (self.samples, *self.compare)


def check_evaluate_config(config: EvaluateConfig) -> None:
    """DataError, ConfigError: a folder of samples is missing or given twice."""
    for folder in config.folders:
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder}: the folder of samples does not exist (--samples, --compare); draw them with "
                "segmentation_sample.py"
            )
    if len({os.path.realpath(folder) for folder in config.folders}) < len(config.folders):
        raise ConfigError("--compare names a folder twice, or the folder of --samples")


# -- one case ---------------------------------------------------------------------------------------------------------


@dataclass
class CaseScore:
    """The metrics of one case in each folder, and its faults."""

    name: str
    figures: dict[str, dict[str, float]] = field(default_factory=dict)  # {folder: {metric: value}}
    settings: dict[str, dict[str, str]] = field(default_factory=dict)  # {folder: how the samples were drawn}
    faults: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)  # {caption: PNG}
    # {folder: {count: (true probability, share of the first `count` samples) of each mode}}
    modes: dict[str, dict[int, list[tuple[float, float]]]] = field(default_factory=dict)


class Scorer:
    """Reads and scores one case at a time; may be called from several threads.

    flags  the flags of DataConfig and PostprocessConfig that were given; the others are those stored with the samples
    """

    def __init__(self, config: EvaluateConfig, flags: Mapping[str, Any]):
        self.config = config
        self.truth = read_truth(config.truth) if config.truth else None
        self.files = CaseFiles(config.data_dir, flags)

    def __call__(self, case: tuple[str, str]) -> CaseScore:
        """The score of a case (name, folder).

        ConfigError: the samples of the folders to compare were drawn for different raters' masks.
        """
        score, found = CaseScore(case[0]), []
        for folder in self.config.folders:
            with _as_fault(score):
                found.append(self.files.samples_in(folder, score.name))
        like = next((drawn for drawn in found if "image_size" in drawn.made_by), None)
        first: Scored | None = None
        for drawn in found:
            with _as_fault(score):
                scored = self.files.read(case, drawn, like)
                first = first or scored
                check_same_raters(score.name, first, scored)
                self._score(score, scored)
        return score

    def notes(self, num_cases: int) -> list[str]:
        """Lines on what reading changed in the `num_cases` cases."""
        return self.files.notes(num_cases)

    def _score(self, score: CaseScore, case: Scored) -> None:
        drawn, classes = case.drawn, case.data.class_set
        masks = binarise(drawn.samples, postprocess_of(drawn.made_by), case.bring_back, classes)
        if case.ignored is not None and case.ignored.all():
            raise DataError("every pixel has the level of --ignore_label")
        found = CaseMasks(valid_pixels(masks, case.ignored), valid_pixels(case.raters, case.ignored), classes)
        truth = self._truth(score.name, case, found.raters)
        figures: dict[str, float] = {}
        for scored in self._figures(score, drawn.folder, found, truth):
            figures |= scored
        if not figures:
            return
        score.figures[drawn.folder] = figures | figures_of_raters(found.raters, classes)
        score.settings[drawn.folder] = settings_of(case)
        if self.config.report:
            file = io.BytesIO()
            page = pictures.sheet(case.image, case.raters, masks, SAMPLES_SHOWN, classes)
            page.save(file, format="PNG", optimize=True)
            score.pictures[drawn.folder] = file.getvalue()

    def _figures(
        self, score: CaseScore, folder: str, found: CaseMasks, truth: Truth | None
    ) -> Iterator[dict[str, float]]:
        """Yield {name: value} for each of --counts; each pair of masks is compared only once."""
        pairs = Pairs.of(*found)
        for count in self.config.counts or (len(found.samples),):
            if count > len(found.samples):
                score.faults.append(f"only {len(found.samples)} samples in {folder}, fewer than --counts {count}")
                continue
            first, among = replace(found, samples=found.samples[:count]), pairs.first(count)
            scored: dict[str, Any] = figures_of_samples(first, among)
            if found.classes.several and self.config.absent_classes == "skip":
                scored |= present_figures(first, among)
            if truth:
                own, frequencies = truth_figures(first, truth, scored)
                scored |= own
                score.modes.setdefault(folder, {})[count] = list(zip(truth.probabilities, frequencies, strict=True))
            yield named(scored, count) | figures_by_class(first, among, count)

    def _truth(self, name: str, case: Scored, raters: Bool[np.ndarray, "R *K H W"]) -> Truth | None:
        """The truth of a case, without its ignored pixels.

        raters  the masks without these pixels
        """
        if not self.truth:
            return None
        if name not in self.truth:
            raise DataError(f"{self.config.truth} does not contain this case")
        size = (case.raters.shape[-2], case.raters.shape[-1])
        truth = case_truth(self.truth[name], size, case.data.pad, case.data.class_set, case.ignored)
        if (fidelity.assign_modes(raters, truth.modes, MODE_IOU, truth.classes) == fidelity.IMPLAUSIBLE).any():
            raise DataError(
                f"a rater's mask matches no mode in {self.config.truth}; check that --truth belongs to these cases"
            )
        return truth


@contextlib.contextmanager
def _as_fault(score: CaseScore) -> Iterator[None]:
    """A context whose errors about files become faults of the case."""
    try:
        yield
    except (DataError, OSError) as error:
        score.faults.append(str(error))


def settings_of(case: Scored) -> dict[str, str]:
    """{name: value} of how a case's samples were drawn and thresholded, for display."""
    made_by = case.drawn.made_by
    names = ("checkpoint", "weights", "sampler", "steps", "seed")
    drawn = {name: str(made_by.get(name, "not stored")) for name in names}
    postprocess, default = postprocess_of(made_by), PostprocessConfig()
    finished = {
        f.name.replace("_", " "): str(getattr(postprocess, f.name))
        for f in fields(PostprocessConfig)
        if f.name == "threshold" or getattr(postprocess, f.name) != getattr(default, f.name)
    }
    finished[OUTPUT_SIZE] = case.output_size
    if case.data.class_set.several:
        finished["classes" if case.data.class_set.exclusive else "regions"] = ", ".join(case.data.class_set.names)
    return {"samples per case": str(len(case.drawn.samples)), PIXELS: case.size, **drawn, **finished}


def truth_figures(
    found: CaseMasks, truth: Truth, scored: Mapping[str, Any]
) -> tuple[dict[str, float], Float[np.ndarray, "N"]]:
    """The metrics that need the true distribution, and the share of the samples in each mode.

    scored  result of metrics.all_figures
    """
    masks, raters = found.samples, found.raters
    M, R = len(masks), len(raters)
    assigned = fidelity.assign_modes(masks, truth.modes, MODE_IOU, truth.classes)
    frequencies = fidelity.mode_frequencies(assigned, len(truth.modes))
    perfect = fidelity.expected_squared_ged(truth, raters, M)
    figures = {
        "mode_tv": fidelity.total_variation(frequencies, truth.probabilities),
        "mode_tv_of_perfect": fidelity.expected_total_variation(truth.probabilities, M),
        "implausible": (assigned == fidelity.IMPLAUSIBLE).mean(),
        "ged_of_truth": perfect,
        "ged_excess": scored["ged"] - perfect,
    }
    if M > 1 and R > 1:
        perfect = fidelity.expected_squared_ged(truth, raters, M, unbiased=True)
        figures["ged_unbiased_excess"] = scored["ged_unbiased"] - perfect
    if truth.pairs:
        figures |= fidelity.pair_figures(masks, truth.pairs)
    return figures, frequencies
