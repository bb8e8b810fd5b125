"""The flags of a conversion, which every converter receives."""

from typing import Annotated, Literal

from ...data.names import PatientPattern, PatientTable
from ...errors import ConfigError
from ...flags.classes import checked_classes
from ...flags.fields import Flag, config, nonempty
from ...flags.rules import one_of


@config()
class ConvertConfig:
    """The source and the output of a conversion."""

    src: Annotated[str, Flag("source file or folder", required=True)] = ""
    out: Annotated[str, Flag("output folder of cases", required=True, local=True)] = ""
    task: Annotated[
        tuple[int, ...], Flag("qubiq: task number, or those of several structures", at_least=0, check=nonempty)
    ] = (1,)
    axis: Annotated[
        int | None,
        Flag(
            "qubiq, ms-mri, folders: axis of slices or modalities in the files, 0 to 2; auto: the last, or the one "
            "that matches the masks",
            none="auto",
            at_least=0,
            at_most=2,
        ),
    ] = None
    min_raters: Annotated[int, Flag("skip images that fewer raters marked", at_least=0)] = 0
    label_threshold: Annotated[
        float | None,
        Flag(
            "threshold of masks, as a share of full scale; auto: half for JPEG, exact levels for others",
            none="auto",
            at_least=0,
            below=1,
        ),
    ] = None
    merge_labels: Annotated[bool, Flag("treat every nonzero class of a mask as foreground")] = False
    structure: Annotated[
        str,
        Flag(
            "the only structure to convert: a level, a number or #rrggbb, or several as 1+2; or, for folders, NAME in "
            "the names of masks or in dataset.json; empty: all"
        ),
    ] = ""
    classes: Annotated[
        tuple[str, ...],
        Flag(
            "classes to convert: disc,cup for levels 1 and 2 or, for folders, NAMES in the names of masks; "
            "disc=128,cup=0 for other levels; disc=1+2,cup=2 for regions; empty: those of dataset.json, or one class",
            check=checked_classes,
        ),
    ] = ()
    ignore_label: Annotated[
        int | None,
        Flag("level of pixels that do not count; none: that of dataset.json, if any", none="none", at_least=0),
    ] = None
    missing: Annotated[
        Literal["refuse", "skip", "empty"],
        Flag("a rater without a mask of some class: an error; skip the rater; or an empty mask"),
    ] = "refuse"
    images: Annotated[
        str,
        Flag(
            "folders: PATTERN of the paths of images below --src, e.g. scans/{patient}/{case}.*; fields are {case}, "
            "{patient} and {modality}, * is any text; empty: known layouts"
        ),
    ] = ""
    masks: Annotated[
        str,
        Flag(
            "folders: PATTERN of the paths of masks, e.g. outlines/{rater}/{case}.*; fields are {case}, {patient}, "
            "{rater} and {structure}; empty: known layouts"
        ),
    ] = ""
    grey: Annotated[bool, Flag("convert images in colour to grey (luminance)")] = False
    patient_pattern: PatientPattern = ""
    patients: PatientTable = ""
    seed: Annotated[int, Flag("seed of the random split by patient, if the source has no split", at_least=0)] = 0


def check_level_stands_alone(config: ConvertConfig) -> None:
    """ConfigError: another flag on levels is given beside the level of --structure."""
    for flag, is_given in (
        ("merge_labels", config.merge_labels),
        ("label_threshold", config.label_threshold is not None),
    ):
        if is_given:
            raise ConfigError(one_of("structure", flag))


def check_classes_stand_alone(config: ConvertConfig) -> None:
    """ConfigError: --classes and a flag that makes one class are both given."""
    for flag, is_given in (("structure", bool(config.structure)), ("merge_labels", config.merge_labels)):
        if config.classes and is_given:
            raise ConfigError(one_of("classes", flag))
