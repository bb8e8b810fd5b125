"""The flags that decide how cases are read."""

from typing import Annotated, Literal

from ..errors import ConfigError
from ..flags.classes import Classes, checked_classes, parse_classes
from ..flags.configs import Configs
from ..flags.fields import Flag, config, lower_first
from .files.label import colour_level


@config(resume="new run")
class DataConfig:
    """How image and label files are read."""

    label_threshold: Annotated[
        float | None,
        Flag(
            "threshold of labels, as a share of full scale (0: as published); auto: half for JPEG, else exact levels",
            none="auto",
            sampling="free",
            decodes=True,
            at_least=0,
            below=1,
        ),
    ] = None
    merge_labels: Annotated[
        bool, Flag("treat every nonzero class of a label as foreground", sampling="free", decodes=True)
    ] = False
    structure: Annotated[
        str,
        Flag(
            "NAME or LEVEL of the only structure to read: of files label0_NAME.png, or a level, or several as 1+2",
            sampling="free",
            decodes=True,
        ),
    ] = ""
    classes: Annotated[
        tuple[str, ...],
        Flag(
            "classes of the labels: disc,cup for levels 1 and 2 or for files label0_disc.png and label0_cup.png, "
            "disc=1+2,cup=2 for regions of levels; empty: those of dataset.json, or one class",
            decodes=True,
            check=checked_classes,
        ),
    ] = ()
    ignore_label: Annotated[
        int | None,
        Flag(
            "level of pixels that count in no loss and no figure; auto: that of dataset.json, if any",
            none="auto",
            sampling="free",
            decodes=True,
            at_least=0,
        ),
    ] = None
    missing: Annotated[
        Literal["refuse", "skip", "empty"],
        Flag(
            "a rater without a file of some structure: an error; skip the rater; or an empty mask",
            sampling="free",
            decodes=True,
        ),
    ] = "refuse"
    skip_unlabelled: Annotated[
        bool, Flag("skip cases without labels where labels are needed (False: an error)", resume="free")
    ] = False
    grey: Annotated[bool, Flag("convert images in colour to grey (luminance)", sampling="free", decodes=True)] = False
    intensity_range: Annotated[
        tuple[float, ...] | None,
        Flag(
            "LO,HI of images, mapped to [0, 1]; auto: the scale of 8-bit and 16-bit pictures, otherwise minimum and "
            "maximum of each image",
            none="auto",
            decodes=True,
            check=lower_first,
        ),
    ] = None
    resize: Annotated[
        bool, Flag("resize cases to --image_size (False: other sizes are an error, unless --pad makes them fit)")
    ] = True
    pad: Annotated[
        bool, Flag("pad cases smaller than --image_size or of another aspect ratio with black, instead of stretching")
    ] = False

    def __post_init__(self) -> None:
        if self.structure and (self.merge_labels or self.label_threshold is not None):
            other = "merge_labels" if self.merge_labels else "label_threshold"
            raise ConfigError(f"--structure and --{other} contradict each other: use only one of them")
        for name in ("structure", "merge_labels", "label_threshold"):
            if self.classes and getattr(self, name) not in (None, "", False):
                raise ConfigError(f"--classes and --{name} contradict each other: use only one of them")

    @property
    def class_set(self) -> Classes:
        """The classes that `classes` names."""
        return parse_classes(self.classes)

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels that `structure` gives, numbers or colours #rrggbb, joined by +; none: it is a name, or empty."""
        try:
            return tuple(map(_level, self.structure.split("+")))
        except ValueError:
            return ()

    @property
    def structures_in_files(self) -> tuple[str, ...]:
        """The structures that have label files of their own, label0_NAME.png, and are read."""
        if self.class_set.from_files:
            return self.class_set.names
        return (self.structure,) if self.structure and not self.levels else ()


def classes_of(configs: Configs) -> Classes:
    """The classes of the DataConfig of `configs`; one class if they have none."""
    return configs[DataConfig].class_set if DataConfig in configs.classes else Classes()


def _level(text: str) -> float:
    """The level that a number or a colour #rrggbb stands for. ValueError: it is neither."""
    if text.startswith("#") and len(text) == 7:
        return float(colour_level(*(int(text[k : k + 2], 16) for k in (1, 3, 5))))
    return float(text)
