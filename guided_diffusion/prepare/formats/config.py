"""The flags of a conversion, which every converter receives."""

from typing import Annotated

from ...flags.fields import Flag, config


@config()
class ConvertConfig:
    """The source and the output of a conversion."""

    src: Annotated[str, Flag("source file or folder", required=True)] = ""
    out: Annotated[str, Flag("output folder of cases", required=True, local=True)] = ""
    task: Annotated[int, Flag("qubiq: task number", at_least=0)] = 1
    axis: Annotated[
        int | None,
        Flag(
            "qubiq, ms-mri: axis of slices or modalities in the files, 0 to 2; auto: the last, or the one that matches "
            "the masks",
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
    structure: Annotated[str, Flag("level of the only structure to convert, a number or #rrggbb; empty: all")] = ""
    grey: Annotated[bool, Flag("convert images in colour to grey (luminance)")] = False
    seed: Annotated[int, Flag("seed of the random split by patient, if the source has no split", at_least=0)] = 0
