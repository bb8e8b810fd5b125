"""Validation during training: a fixed set of cases, sampled in few steps with the averaged weights, and scored."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from ..dist_util import Processes
from ..flags.classes import Classes
from ..flags.fields import Flag, config
from ..lidcloader import Case, LIDCDataset
from ..masks.metrics import mean_mask_dice, squared_ged
from ..masks.pairs import valid_pixels
from ..masks.pictures import sheet, shown_image
from ..masks.postprocess import binarise
from ..sampling.config import SampleConfig
from ..sampling.draw import draw_ensembles
from ..sampling.protocol import Segmenter
from ..sampling.samplers import SamplerConfig
from ..system.device import eagerly
from .run_state import hash_of_cases


@config(resume="free")
class ValidationConfig:
    """Validation during training."""

    eval_data_dir: Annotated[str, Flag("folder of cases to validate on; empty: no validation")] = ""
    eval_interval: Annotated[
        int | None, Flag("steps between validations; auto: --save_interval", none="auto", at_least=1)
    ] = None
    eval_cases: Annotated[int, Flag("cases per validation, spread over the folder", at_least=1)] = 16
    eval_ensemble: Annotated[int, Flag("masks per case in validation", at_least=1)] = 4
    eval_steps: Annotated[
        int | None, Flag("network calls per mask in validation; auto: --steps, or 50", none="auto", at_least=1)
    ] = None


class Validator:
    """Scores a segmenter on cases of `dataset`, split over the processes.

    sampler     its steps are overridden by ValidationConfig.eval_steps
    seed        of the masks; every validation uses the same noise, so that only the weights affect the scores
    batch_size  masks drawn at a time
    shared      True: each process scores a part of the cases; False: each scores all of them, for sharded weights
    reading     version of the reading rules of the run, from start.reading_of; None: that of the dataset
    """

    def __init__(
        self,
        dataset: LIDCDataset,
        config: ValidationConfig,
        sampler: SamplerConfig,
        processes: Processes,
        seed: int,
        batch_size: int,
        *,
        shared: bool = True,
        reading: int | None = None,
    ) -> None:
        self.dataset, self.config, self.processes, self.reading = dataset, config, processes, reading
        self.sampler = replace(sampler, steps=config.eval_steps or sampler.steps or 50)
        self.sampling = SampleConfig(num_ensemble=config.eval_ensemble, batch_size=batch_size, seed=seed)
        chosen = np.unique(np.linspace(0, len(dataset) - 1, min(config.eval_cases, len(dataset))).round().astype(int))
        self.sheet: Image.Image | None = None  # this process's first case in the last validation
        self.mine = [int(index) for index in (chosen[processes.rank :: processes.world_size] if shared else chosen)]

    @functools.cached_property
    def data(self) -> str:
        """The hash of the cases, or their folder."""
        return hash_of_cases(self.dataset, self.reading or self.dataset.reading) or self.dataset.directory

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must be equal for scores to be comparable, JSON-like."""
        cases = {"data": self.data, "cases": self.config.eval_cases, "num_cases": len(self.dataset)}
        return {**cases, "ensemble": self.config.eval_ensemble, "seed": self.sampling.seed, **asdict(self.sampler)}

    @property
    def names(self) -> list[str]:
        """Names of the scores; the first one is minimised to select the best checkpoint."""
        M = self.config.eval_ensemble
        return [f"ged_{M}", f"dice_{M}"]

    def improves(self, scores: Mapping[str, float], best: Mapping[str, Any] | None) -> bool:
        """Whether scores improve on `best`, {settings, step, score}. A best score with other settings is ignored."""
        score = scores[self.names[0]]
        if not math.isfinite(score):
            return False
        return best is None or best["settings"] != self.settings or score < best["score"]

    def score(self, segmenter: Segmenter, give_up: Callable[[], object] = lambda: False) -> dict[str, float]:
        """{name: mean over the cases of all processes}: GED, and Dice of the two majority masks.

        give_up  () -> whether to stop early; if true on any process, the result is {}
        """
        segmenter.eval()
        steps = min(self.sampler.steps or segmenter.max_steps, segmenter.max_steps)
        spaced = segmenter.spaced(replace(self.sampler, steps=steps))
        self.sheet = None
        total = torch.zeros(4, dtype=torch.float64)  # both scores, number of cases, number of processes that gave up
        with eagerly():  # avoids two more compilations of a network compiled for training
            try:
                for case, samples in draw_ensembles(
                    spaced, self.dataset, self.mine, self.sampling, self.sampler, _until(give_up)
                ):
                    total[:3] += torch.tensor(self._score_case(case, samples, segmenter.classes))
            except GivenUp:
                total[3] = 1
            finally:
                segmenter.train()
        *sums, count, given_up = self.processes.sum(total.to(self.processes.device)).tolist()
        return {} if given_up else {name: value / count for name, value in zip(self.names, sums, strict=True)}

    def _score_case(self, case: Case, samples: np.ndarray, classes: Classes = Classes()) -> list[float]:
        """[GED, Dice of the two majority masks, 1] of a case; NaN if a sample is not finite."""
        masks, raters = binarise(samples, classes=classes), case.raters.numpy() > 0.5
        if self.sheet is None:
            self.sheet = sheet(shown_image(case.image.numpy(), case.colour), raters, masks, classes=classes)
        soundness = 1.0 if np.isfinite(samples).all() else np.nan  # thresholded NaNs would look like empty masks
        ignored = None if case.ignored is None else case.ignored.numpy()
        masks, raters = valid_pixels(masks, ignored), valid_pixels(raters, ignored)
        ged, dice = squared_ged(masks, raters, classes=classes).total, mean_mask_dice(masks, raters, classes)
        scores = (float(ged), float(dice), 1.0)
        return [soundness * score for score in scores]


class GivenUp(Exception):
    """The validation was interrupted by a signal."""


def _until(give_up: Callable[[], object]) -> Callable[[int], None]:
    """An `on_mask` callback that stops sampling between batches once give_up() is true."""

    def on_mask(count: int) -> None:
        if give_up():
            raise GivenUp

    return on_mask
