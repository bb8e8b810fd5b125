"""What is seen of the chains while they run: frames of movies, and Visdom windows of the cases at hand."""

import numpy as np

from ..logger import NullSink
from ..masks import pictures
from ..masks.postprocess import PostprocessConfig, binarise, entropy_map, mean_mask, variance_map

LATEST = 4  # finished cases whose sheets stay in windows


class ChainWatch:
    """Watches the ensembles that draw_ensembles draws.

    num_steps    of each chain
    movie        keep the frames of each case's first chain
    windows      a sink of logger.py
    postprocess  PostprocessConfig of the masks that are shown
    """

    def __init__(self, num_steps, movie=False, windows=NullSink(), postprocess=PostprocessConfig()):
        self.frames_at, self.num_steps = pictures.movie_steps(num_steps), num_steps
        self.keeps_frames, self.windows, self.postprocess = movie, windows, postprocess
        self.frames, self.rows, self.count = {}, [], 0

    @property
    def wants_steps(self):
        """Whether `step` is to be called: its copies from the device take time."""
        return self.keeps_frames or self.windows.shown

    def begin(self, rows):
        """A batch begins: (case, number of the mask) of each row."""
        self.rows = rows
        if self.windows.shown:
            case = rows[0][0]
            image, raters = case.image[0].numpy(), case.raters.numpy() > 0.5
            scale = pictures.enlargement(image.shape)
            self.windows.picture(
                "case",
                pictures.grid([[("image", image), (f"{len(raters)} raters", pictures.outlines(image, raters, scale))]]),
                case.id,
            )

    def step(self, k, x):
        """The k-th step of all rows is done: x [B, 1, H, W] on the scale on which masks are 0 and 1."""
        if k not in self.frames_at:
            return
        first = [row for row, (_, member) in enumerate(self.rows) if member == 0] if self.keeps_frames else []
        for row in first:
            self.frames.setdefault(self.rows[row][0].id, []).append(x[row, 0].float().cpu().numpy())
        if self.windows.shown:
            case, member = self.rows[0]
            frame = x[0, 0].float().cpu().numpy()
            self.windows.picture(
                "x_t", pictures.grid([[(f"{k + 1} of {self.num_steps}", frame)]]), f"{case.id}, mask {member}"
            )

    def finished(self, case, samples):
        """A mask of a case is done: the case's samples so far [M, H, W]."""
        if not self.windows.shown:
            return
        masks = binarise(np.stack(samples), self.postprocess)
        tiles = [(f"sample {k}", mask) for k, mask in enumerate(masks)][-2 * pictures.COLUMNS :]
        rows = [tiles[start : start + pictures.COLUMNS] for start in range(0, len(tiles), pictures.COLUMNS)]
        self.windows.picture("masks", pictures.grid(rows), case.id)
        summary = [
            ("mean", mean_mask(masks)),
            ("uncertainty", 4 * variance_map(masks)),
            ("entropy", entropy_map(masks)),
        ]
        self.windows.picture("mean and uncertainty", pictures.grid([summary]), f"{case.id}, {len(masks)} masks")

    def case_done(self, case, samples):
        """All masks of a case are done. Returns the frames of its first chain, where they are kept; else None."""
        if self.windows.shown:
            masks = binarise(samples, self.postprocess)
            page = pictures.sheet(case.image[0].numpy(), case.raters.numpy() > 0.5, masks, 2 * pictures.COLUMNS)
            self.windows.picture(f"latest {self.count % LATEST}", page, case.id)
            self.count += 1
        return self.frames.pop(case.id, None)
