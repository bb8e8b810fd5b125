"""The masks drawn for one case, as the Python API returns them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32
from PIL import Image

from ..checkpoints.files import CheckpointFile
from ..data.geometry import CaseArrays
from ..data.surveys.changes import count
from ..errors import ConfigError
from ..flags.classes import Classes
from ..flags.configs import parse_flags
from ..masks import postprocess
from ..masks.consensus import consensus
from ..masks.postprocess import PostprocessConfig, binarise
from ..system import folders
from . import store
from .config import SampleConfig, data_config_of, finish
from .names import check_names
from .outputs import Drawn, shown_at

if TYPE_CHECKING:  # it imports torch
    from ..lidcloader import Case

Map = Float32[np.ndarray, "*K H W"]


@dataclass(frozen=True)
class Drawing:
    """How an ensemble was drawn.

    config, postprocess  of the call
    drawn_by             from `identity`, whose checkpoint is that of `checkpoint`
    classes              the config classes of the flags in `drawn_by`
    checkpoint           None: the model was not loaded from a file
    """

    config: SampleConfig
    postprocess: PostprocessConfig
    drawn_by: Mapping[str, Any]
    classes: tuple[type, ...]
    checkpoint: CheckpointFile | None

    @property
    def class_set(self) -> Classes:
        """The classes of the masks."""
        return data_config_of(self.drawn_by).class_set

    def identity(self) -> dict[str, Any]:
        """`drawn_by` with the hash of the checkpoint. ConfigError: it is unknown."""
        if self.checkpoint is None:
            raise ConfigError(
                "the model was not loaded from a checkpoint, which is stored with its samples: use load()"
            )
        return {**self.drawn_by, "checkpoint": self.checkpoint.fingerprint}


@dataclass(frozen=True)
class _OneCase:
    """A case as a dataset, for the store."""

    case: "Case"
    own: CaseArrays

    @property
    def ids(self) -> list[str]:
        return [self.case.id]

    def __getitem__(self, index: int) -> "Case":
        return self.case

    def own_arrays(self, index: int) -> CaseArrays:
        return self.own


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble:
    """The masks of one image, and maps derived from them; H x W is its own size or, on demand, that of the network.

    With several classes, `masks`, `samples`, `raters`, `mean` and `variance` have an axis of classes before H and W.

    name     of the case
    samples  before the threshold, at the network's size, on a scale where background is 0 and foreground 1
    masks    at the size of the image
    image    as the reading rules give it, in [0, 1]
    raters   the raters' masks, if the case has labels; R may be 0
    ignored  pixels that count in no metric; None: there are none
    notes    what reading changed, one line each
    """

    name: str
    samples: Float[np.ndarray, "M *K h w"]
    masks: Bool[np.ndarray, "M *K H W"]
    image: Float32[np.ndarray, "C H W"]
    raters: Bool[np.ndarray, "R *K H W"]
    ignored: Bool[np.ndarray, "H W"] | None
    notes: tuple[str, ...]
    _case: "Case" = field(repr=False)
    _own: CaseArrays = field(repr=False)
    _drawing: Drawing = field(repr=False)

    @classmethod
    def of(
        cls,
        case: "Case",
        own: CaseArrays,
        samples: Float[np.ndarray, "M *K h w"],
        drawing: Drawing,
        notes: tuple[str, ...],
    ) -> "Ensemble":
        """The ensemble of a case; `own` has its pixels at its own size."""
        to_own = drawing.postprocess.output_size == "own" and case.geometry is not None
        back = case.geometry.bring_back if to_own and case.geometry else None
        masks = binarise(samples, drawing.postprocess, back, drawing.class_set)
        ignored = None if case.ignored is None else case.ignored.numpy()
        at_network = CaseArrays(case.image.numpy(), case.raters.numpy() > 0.5, ignored=ignored)
        shown = own if to_own else at_network
        image = shown.image[: own.image.shape[0]]  # without repeated planes
        return cls(case.id, samples, masks, image, shown.raters, shown.ignored, notes, case, own, drawing)

    def __repr__(self) -> str:
        """E.g. Ensemble('case1', 16 masks of 200x150)."""
        masks, *_, height, width = self.masks.shape
        of_classes = f" of {', '.join(self.classes)}" if self.classes else ""
        return f"Ensemble({self.name!r}, {count(masks, 'mask')}{of_classes} of {width}x{height})"

    @property
    def class_set(self) -> Classes:
        """The classes of the masks."""
        return self._drawing.class_set

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of several classes; empty for one class."""
        return self.class_set.names if self.class_set.several else ()

    @property
    def mean(self) -> Map:
        """Share of the masks that mark each pixel."""
        return postprocess.mean_mask(self.masks)

    @property
    def variance(self) -> Map:
        """Variance of the masks at each pixel, at most 0.25."""
        return postprocess.variance_map(self.masks)

    @property
    def entropy(self) -> Map:
        """Entropy of `mean` at each pixel, in bits; [H, W] also for several classes."""
        return postprocess.entropy_map(self.masks, self._drawing.class_set)

    def consensus(self, kind: str = "majority") -> np.ndarray:
        """The consensus mask [H, W], or [K, H, W]: bool for "majority" and "staple", float32 for "mean"."""
        if kind not in postprocess.CONSENSUS:
            raise ConfigError(f"consensus {kind} is unknown: choose one of {', '.join(postprocess.CONSENSUS)}")
        return consensus(kind, self.masks, self._drawing.class_set)

    def show(self) -> Image.Image:
        """The sheet of the case, ID_sheet.png of the command: image, maps, outlines and masks."""
        shown = CaseArrays(self.image, self.raters)
        return Drawn(self.masks, *shown_at(shown, self._case.colour), self._drawing.class_set).sheet()

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        consensus: str = "none",
        save_probabilities: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Write the files that segmentation_sample.py writes for this case, with the same flags.

        overwrite  replace samples that were drawn with other settings
        ConfigError: a flag is invalid, the folder cannot be written to, or it contains such samples, and `overwrite`
        is not set.
        """
        if not folder:
            raise ConfigError("save needs the folder to write to")
        given = {"consensus": consensus, "save_probabilities": save_probabilities, "overwrite": overwrite}
        values = parse_flags({"out_dir": os.fspath(folder), **given}, SampleConfig)
        drawing = self._drawing
        config, drawn_by = replace(drawing.config, **values), drawing.identity()
        folders.check_writable(config.out_dir, "out_dir")
        check_names(config.out_dir, [self.name])
        finished_by = finish(config, drawing.postprocess, drawing.class_set)
        one = _OneCase(self._case, self._own)
        if store.unfinished(one, [0], config, drawn_by, finished_by, drawing.classes):
            store.write_case(config.out_dir, self._case, self.samples, drawn_by, finished_by, own=lambda: self._own)
