"""Finished samples in Visdom: a case chosen from a list, its raters and samples over its image, at any threshold."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from html import escape
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from ..data.case_reader import CaseReader, DataConfig, find_cases
from ..errors import DataError
from ..flags.fields import Flag, config
from ..masks import pictures
from ..masks.postprocess import PostprocessConfig, binarise, variance_map
from ..sampling import store
from ..sampling.config import postprocess_of
from ..system import storage
from .connection import Client, send_picture

SORTED_BY = ("name", "uncertainty", "ged", "ci")  # what cases can be sorted by; the last two where metrics.csv has them
CHOICE, PAGE, TEXT = "cases", "masks", "figures"  # windows
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
MOST_SHOWN = 16  # samples
ATTEMPTS = 3  # at sending what was chosen


@config()
class InspectConfig:
    """What is inspected."""

    samples: Annotated[str, Flag("folder that segmentation_sample.py wrote")] = "results/samples"
    data_dir: Annotated[
        str, Flag("folder of the cases, for images and raters; empty: where they were scored, or samples alone")
    ] = ""


def read_figures(folder: str) -> dict[str, dict[str, float]]:
    """{case: {figure: value}} of a folder's metrics.csv, without those that are not finite; empty where there is none.

    Of a case's several rows the first is the folder's own, the others are of what it was compared with.
    """
    text = (storage.read_bytes(os.path.join(folder, "metrics.csv")) or b"").decode(errors="replace")
    rows: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if row.get("case"):
            rows.setdefault(row["case"], row)
    known = {
        case: {name: float(x) for name, x in row.items() if name not in ("case", "samples") and x}
        for case, row in rows.items()
    }
    return {case: {name: x for name, x in row.items() if math.isfinite(x)} for case, row in known.items()}


def scored_on(folder: str) -> str:
    """The folder of cases that a folder's metrics.json names; "" where that is not there."""
    try:
        summary = json.loads(storage.read_bytes(os.path.join(folder, "metrics.json")) or b"{}")
        path = os.path.join(folder, summary["data_dir"])
    except (ValueError, KeyError, TypeError):
        return ""
    return path if os.path.isdir(path) else ""


class Inspector:
    """What is shown, and how it answers to changes in the window of choices. DataError: no samples, or no such folder.

    client  a Visdom client with an incoming socket
    """

    def __init__(self, client: Client, config: InspectConfig):
        self.client, self.config = client, config
        if not os.path.isdir(config.samples):
            raise DataError(f"{config.samples}: no such folder (--samples)")
        names = sorted(
            name.removesuffix("_samples.npz") for name in os.listdir(config.samples) if name.endswith("_samples.npz")
        )
        if not names:
            raise DataError(f"{config.samples}: no samples; draw them with segmentation_sample.py")
        data_dir = config.data_dir or scored_on(config.samples)
        self.folders = dict(find_cases(data_dir)) if data_dir else {}
        self.figures = read_figures(config.samples)
        self.spread = {name: self._mean_variance(name) for name in names}
        self.order, self.names = "name", names
        self.case, self.threshold = names[0], self._nearest_threshold(names[0])

    def _samples(self, name: str) -> tuple[Shaped[np.ndarray, "M H W"], Mapping[str, Any]]:
        return store.read_case(store.samples_path(self.config.samples, name))

    def _mean_variance(self, name: str) -> float | None:
        """The mean of the variance map of a case's masks, as they were written; None: its samples cannot be read."""
        try:
            samples, made_by = self._samples(name)
            return float(variance_map(binarise(samples, postprocess_of(made_by))).mean())
        except DataError:
            return None

    def _nearest_threshold(self, name: str) -> float:
        """The nearest of THRESHOLDS to what a case's masks were made with."""
        try:
            made_with = postprocess_of(self._samples(name)[1]).threshold
        except DataError:
            made_with = PostprocessConfig.threshold
        return min(THRESHOLDS, key=lambda threshold: abs(threshold - made_with))

    def figure(self, name: str, order: str) -> float | None:
        """A case's value of what cases are sorted by; None: it has none."""
        if order == "uncertainty":
            return self.spread[name]
        figures = self.figures.get(name, {}).items()
        return next((value for figure, value in figures if figure.rpartition("_")[0] == order), None)

    def sorted_names(self) -> list[str]:
        """The cases, those with the greatest value first; those without one last."""
        if self.order == "name":
            return sorted(self.names)
        values = {name: self.figure(name, self.order) for name in self.names}
        return sorted(self.names, key=lambda name: (values[name] is None, -(values[name] or 0), name))

    def label(self, name: str) -> str:
        """A case as it is listed: with its value of what cases are sorted by."""
        value = None if self.order == "name" else self.figure(name, self.order)
        return name if value is None else f"{name}  {self.order} {value:.4f}"

    # -- what is shown ------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Send all windows."""
        names = self.sorted_names()
        choices = [
            choice("sorted by", SORTED_BY, SORTED_BY.index(self.order)),
            choice("case", [self.label(name) for name in names], names.index(self.case)),
            choice("threshold", [f"{x:.2f}" for x in THRESHOLDS], THRESHOLDS.index(self.threshold)),
        ]
        self.client.properties(choices, win=CHOICE, opts={"title": CHOICE, "width": 380})
        pixels = np.moveaxis(np.asarray(self.page()), -1, 0)
        send_picture(self.client, PAGE, pixels, f"{self.case}, threshold {self.threshold:g}")
        rows = "".join(
            f"<tr><td>{escape(name)}&nbsp;</td><td>{value:.4f}</td></tr>"
            for name, value in self.figures.get(self.case, {}).items()
        )
        self._show_text(f"<b>{escape(self.case)}</b><table>{rows}</table>")

    def _show_text(self, text: str) -> None:
        self.client.text(text, win=TEXT, opts={"title": TEXT, "width": 380, "height": 500})

    def page(self) -> Image.Image:
        """The case's sheet with masks at the threshold, else as they were written."""
        samples, made_by = self._samples(self.case)
        masks = binarise(samples, replace(postprocess_of(made_by), threshold=self.threshold))
        image, raters = self._image(samples, made_by)
        return pictures.sheet(image, raters, masks, MOST_SHOWN)

    def _image(
        self, samples: Shaped[np.ndarray, "M H W"], made_by: Mapping[str, Any]
    ) -> tuple[Shaped[np.ndarray, "H W"], Bool[np.ndarray, "R H W"]]:
        """Image and raters, read as the samples were made; the samples' mean and none where the case is unknown."""
        if self.case not in self.folders:
            return np.clip(samples.mean(0), 0, 1), np.zeros((0, *samples.shape[1:]), dtype=bool)
        made_by = store.spread(made_by) if "flags" in made_by else made_by
        known: dict[str, Any] = {
            f.name: tuple(v) if isinstance(v, list) else v
            for f in fields(DataConfig)
            if (v := made_by.get(f.name)) is not None
        }
        side = samples.shape[1] if samples.shape[1] == samples.shape[2] else None
        image, raters = CaseReader(side, config=DataConfig(**known), require_raters=False).read(self.folders[self.case])
        if image.shape[1:] != samples.shape[1:]:
            raise DataError(
                f"{self.case}: samples of {samples.shape[1:]} pixels, and an image of {image.shape[1:]} (--data_dir)"
            )
        return image[0], raters

    # -- how it answers -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Show the first case and listen."""
        self._show_or_explain()
        self.client.register_event_handler(self.on_event, CHOICE)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Answer to an event of the window of choices.

        Impossible values, and changes in other environments, are ignored.
        ConnectionError: the server takes nothing of ATTEMPTS.
        """
        if event.get("event_type") != "PropertyUpdate" or event.get("eid") != self.client.env:
            return
        try:
            self._choose(int(event["propertyId"]), event["value"])
        except (ValueError, IndexError, KeyError, TypeError):
            return
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                return self._show_or_explain()
            except ConnectionError:  # a busy server: the page would keep what was shown before
                if not attempts_left:
                    raise

    def _choose(self, place: int, value: Any) -> None:
        """Take the value chosen in the table's line number `place`."""
        if place == 0:
            self.order = SORTED_BY[int(value)]
        elif place == 1:
            self.case = self.sorted_names()[int(value)]
        else:
            self.threshold = THRESHOLDS[int(value)]

    def _show_or_explain(self) -> None:
        try:
            self.show()
        except DataError as error:  # of this case: others can be chosen
            self._show_text(escape(str(error)))


def choice(name: str, values: Sequence[str], chosen: int) -> dict[str, Any]:
    """A line of Visdom's table of choices."""
    return {"type": "select", "name": name, "value": chosen, "values": list(values)}
