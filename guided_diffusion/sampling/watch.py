"""Live view of sampling chains: movie frames, and Visdom windows of the current cases."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from ..flags.classes import Classes
from ..lidcloader import Case
from ..logger import NullSink
from ..masks import pictures
from ..masks.legends import with_legend
from ..masks.postprocess import PostprocessConfig, binarise

LATEST = 4  # number of finished cases whose sheets are shown


@runtime_checkable
class PictureSink(Protocol):
    """The part of logger.py's Sink that ChainWatch needs."""

    @property
    def shown(self) -> bool:
        """Whether pictures are shown at all."""

    def picture(self, window: str, picture: Image, caption: str) -> None:
        """Show a picture."""


class ChainWatch:
    """Watches the chains of draw_ensembles.

    num_steps    steps per chain
    movie        keep the frames of each case's first chain
    postprocess  applied to the masks shown
    classes      of the masks
    """

    def __init__(
        self,
        num_steps: int,
        movie: bool = False,
        windows: PictureSink = NullSink(),
        postprocess: PostprocessConfig = PostprocessConfig(),
        classes: Classes = Classes(),
    ) -> None:
        self.frames_at, self.num_steps = pictures.movie_steps(num_steps), num_steps
        self.keeps_frames, self.windows = movie, windows
        self.postprocess, self.classes = postprocess, classes
        self.frames: dict[str, list[np.ndarray]] = {}
        self.rows: Sequence[tuple[Case, int]] = []
        self.count = 0

    @property
    def needs_steps(self) -> bool:
        """Whether `step` must be called; its copies from the device take time."""
        return self.keeps_frames or self.windows.shown

    def begin(self, rows: Sequence[tuple[Case, int]]) -> None:
        """Called at the start of a batch with (case, mask index) of each row."""
        self.rows = rows
        if self.windows.shown:
            case = rows[0][0]
            image, raters = pictures.shown_image(case.image.numpy(), case.colour), case.raters.numpy() > 0.5
            scale = pictures.enlargement(image.shape)
            tiles = [("image", image), (f"{len(raters)} raters", pictures.outlines(image, raters, scale))]
            self.windows.picture("case", with_legend(pictures.grid([tiles]), self.classes), case.id)

    def step(self, k: int, x: Float[Tensor, "B K H W"]) -> None:
        """Called after the k-th step; x is on a scale where background is 0 and foreground 1."""
        if k not in self.frames_at:
            return
        first = [row for row, (_, member) in enumerate(self.rows) if member == 0] if self.keeps_frames else []
        for row in first:
            self.frames.setdefault(self.rows[row][0].id, []).append(self._plane(x[row]))
        if self.windows.shown:
            case, member = self.rows[0]
            tile = (f"{k + 1} of {self.num_steps}", self._plane(x[0]))
            self.windows.picture("x_t", pictures.grid([[tile]]), f"{case.id}, mask {member}")

    def _plane(self, x: Float[Tensor, "K H W"]) -> Float[np.ndarray, "H W"]:
        """One plane for the state of a mask: of several classes, the sum of k x_k / K, a grey label map."""
        planes = x.float().cpu().numpy()
        if not self.classes.several:
            return planes[0]
        return np.tensordot(np.arange(1, len(planes) + 1, dtype=np.float32) / len(planes), planes, axes=1)

    def finished(self, case: Case, samples: Sequence[Float[np.ndarray, "*K H W"]]) -> None:
        """Called after each finished mask with the case's samples so far."""
        if not self.windows.shown:
            return
        masks = binarise(np.stack(samples), self.postprocess, classes=self.classes)
        shown = [pictures.in_colour(mask) if self.classes.several else mask for mask in masks]
        tiles = [(f"sample {k}", mask) for k, mask in enumerate(shown)][-2 * pictures.COLUMNS :]
        rows = [tiles[start : start + pictures.COLUMNS] for start in range(0, len(tiles), pictures.COLUMNS)]
        self.windows.picture("masks", with_legend(pictures.grid(rows), self.classes), case.id)
        maps = pictures.grid([pictures.map_tiles(masks, self.classes)])
        self.windows.picture("mean, variance and entropy", maps, f"{case.id}, {len(masks)} masks")

    def case_done(self, case: Case, samples: Float[np.ndarray, "M *K H W"]) -> list[np.ndarray] | None:
        """Called when all masks of a case are finished. Returns the frames of its first chain, or None."""
        if self.windows.shown:
            masks = binarise(samples, self.postprocess, classes=self.classes)
            image = pictures.shown_image(case.image.numpy(), case.colour)
            raters = case.raters.numpy() > 0.5
            page = pictures.sheet(image, raters, masks, 2 * pictures.COLUMNS, self.classes)
            self.windows.picture(f"latest {self.count % LATEST}", page, case.id)
            self.count += 1
        return self.frames.pop(case.id, None)
