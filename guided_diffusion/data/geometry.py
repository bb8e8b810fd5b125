"""How the pixels of a case's own image became those of the network, and the way back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from ..errors import DataError
from .files.nifti import NiftiFrame
from .resize import Vanishing, canvas, pad_to, resize, resize_and_count, resize_classes, resize_ignored

ImageArray = Float32[np.ndarray, "C H W"]
RatersArray = Bool[np.ndarray, "R *K H W"]


@dataclass(frozen=True)
class Geometry:
    """The way from a case's own pixels to those of the network: padded to `canvas`, then resized to `network`.

    file         name of the image file, of the first modality
    size         (H0, W0) of the image, upright
    canvas       (Hc, Wc), with padding; `size` without
    network      (H, W)
    orientation  of EXIF or TIFF, 1 to 8, by which the stored pixels were turned
    nifti        how a NIfTI file places its array; None: another format
    """

    file: str
    size: tuple[int, int]
    canvas: tuple[int, int]
    network: tuple[int, int]
    orientation: int = 1
    nifti: NiftiFrame | None = None

    @property
    def changes_pixels(self) -> bool:
        """Whether the network sees other pixels than the file has."""
        return not self.size == self.canvas == self.network

    def bring_back(self, plane: Shaped[np.ndarray, "H W"]) -> Float32[np.ndarray, "H0 W0"]:
        """A soft mask or an image plane of the network at the case's own size: resized bilinearly, then cropped."""
        large = resize(np.asarray(plane, dtype=np.float32), self.canvas)
        top, left = ((outer - inner) // 2 for outer, inner in zip(self.canvas, self.size, strict=True))
        return large[top : top + self.size[0], left : left + self.size[1]]

    def as_json(self) -> dict[str, Any]:
        """The geometry as JSON-like values, without what has its default."""
        found: dict[str, Any] = {"file": self.file, "size": self.size, "network": self.network}
        if self.canvas != self.size:
            found["canvas"] = self.canvas
        if self.orientation != 1:
            found["orientation"] = self.orientation
        if self.nifti:
            found["nifti"] = self.nifti.as_json()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The geometry that `as_json` describes. DataError: it is invalid."""
        try:
            nifti = values.get("nifti")
            geometry = cls(
                file=str(values["file"]),
                size=_pair(values["size"]),
                canvas=_pair(values.get("canvas", values["size"])),
                network=_pair(values["network"]),
                orientation=int(values.get("orientation", 1)),
                nifti=None if nifti is None else NiftiFrame.from_json(nifti),
            )
            geometry._check()
            return geometry
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"invalid geometry of a case ({error!r})") from error

    def _check(self) -> None:
        """ValueError: the values contradict each other."""
        if any(outer < inner for outer, inner in zip(self.canvas, self.size, strict=True)):
            raise ValueError(f"canvas {self.canvas} of an image of {self.size}")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation {self.orientation}")
        if self.nifti and tuple(length for length in self.nifti.shape if length != 1) != self.size[::-1]:
            raise ValueError(f"shape {self.nifti.shape} of an image of {self.size}")

    def __str__(self) -> str:
        """JSON text, as stored with samples."""
        return json.dumps(self.as_json())


def _pair(values: Any) -> tuple[int, int]:
    height, width = map(int, values)
    if min(height, width) < 1:
        raise ValueError(f"size {height}x{width}")
    return height, width


class CaseArrays(NamedTuple):
    """The pixels of a case.

    image     in [0, 1]
    raters    [R, H, W], or [R, K, H, W] for several classes; R may be 0
    geometry  None: unknown, as of packed files of earlier versions
    ignored   pixels that count in no loss and no figure; None: there are none
    """

    image: ImageArray
    raters: RatersArray
    geometry: Geometry | None = None
    ignored: Bool[np.ndarray, "H W"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[1], self.image.shape[2]


def fit(case: CaseArrays, size: tuple[int, int], pad: bool, exclusive: bool = True) -> tuple[CaseArrays, Vanishing]:
    """The case at `size` (H, W), and the number of lesions that would vanish.

    pad        pad with black to the aspect ratio of `size`, and at least to `size`, instead of stretching
    exclusive  whether a pixel has at most one of several classes
    """
    image, raters, geometry, ignored = case
    if case.size == size:
        return case, Vanishing()
    padded = canvas(case.size, size) if pad else case.size
    if padded != case.size:
        image, raters = pad_to(image, padded), pad_to(raters, padded)
        ignored = None if ignored is None else pad_to(ignored[None], padded)[0]
    vanishing = Vanishing()
    if padded != size:
        image = np.stack([resize(plane, size) for plane in image])
        if raters.ndim == 4:
            raters, vanishing = resize_classes(raters, size, exclusive)
        else:
            raters, kept = resize_and_count(raters, size)
            vanishing = Vanishing(kept)
        ignored = None if ignored is None else resize_ignored(ignored, size)
    return CaseArrays(image, raters, _fitted(geometry, padded, size) if geometry else None, ignored), vanishing


def _fitted(geometry: Geometry, padded: tuple[int, int], size: tuple[int, int]) -> Geometry:
    """The geometry of a case whose pixels are padded and resized once more."""
    lengths = zip(geometry.canvas, geometry.network, padded, strict=True)
    height, width = (max(outer, round(outer * after / before)) for outer, before, after in lengths)
    return replace(geometry, canvas=(height, width), network=size)


def bring_back(case: CaseArrays) -> CaseArrays:
    """The case at its own size, from the network's pixels; the raters' masks are smoothed by that."""
    geometry = case.geometry
    if geometry is None or not geometry.changes_pixels:
        return case
    image = np.stack([geometry.bring_back(plane) for plane in case.image])
    raters = np.zeros((*case.raters.shape[:-2], *geometry.size), dtype=bool)
    for masks, own in zip(case.raters, raters, strict=True):
        own[...] = _masks_back(geometry, masks)
    ignored = None if case.ignored is None else geometry.bring_back(case.ignored) > 0.5
    return CaseArrays(image, raters, geometry, ignored)


def _masks_back(geometry: Geometry, masks: Bool[np.ndarray, "*K H W"]) -> Bool[np.ndarray, "*K H0 W0"]:
    """The masks of a rater at the case's own size; those of classes without a common pixel leave no hole between."""
    if masks.ndim == 2:
        return geometry.bring_back(masks) > 0.5
    shares = np.stack([geometry.bring_back(mask) for mask in masks])
    if (masks.sum(axis=0) > 1).any():
        return shares > 0.5
    largest = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares]).argmax(axis=0)
    return largest == np.arange(1, len(masks) + 1)[:, None, None]
