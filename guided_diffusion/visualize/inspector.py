"""Inspector of finished samples in Visdom: select a case and a threshold, see raters and samples over the image."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Annotated, Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from ..data.case_reader import CaseReader
from ..data.config import DataConfig
from ..data.described import described
from ..data.files.case_files import find_cases
from ..data.geometry import CaseArrays, bring_back, fit
from ..errors import DataError
from ..flags.fields import Flag, config
from ..masks import pictures
from ..masks.postprocess import PostprocessConfig, binarise, variance_map
from ..sampling import store
from ..sampling.config import data_config_of, network_size, postprocess_of
from ..system import storage
from .connection import Client, send_picture

SORTED_BY = ("name", "variance", "ged", "ci")  # sort keys of cases; the last two need metrics.csv
CHOICE, PAGE, TEXT = "cases", "masks", "figures"  # windows
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
MOST_SHOWN = 16  # samples
ATTEMPTS = 3  # to update the windows after a selection


@config()
class InspectConfig:
    """The samples to inspect."""

    samples: Annotated[str, Flag("output folder of segmentation_sample.py")] = "results/samples"
    data_dir: Annotated[
        str, Flag("folder of the cases, for images and raters; empty: from metrics.json, or show samples only")
    ] = ""


def read_figures(folder: str) -> dict[str, dict[str, float]]:
    """{case: {metric: value}} of a folder's metrics.csv, finite values only; empty without metrics.csv.

    If a case has several rows, the first belongs to the folder, the others to folders compared with it.
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
    """The folder of cases named in a folder's metrics.json; "" if unknown or missing."""
    try:
        summary = json.loads(storage.read_bytes(os.path.join(folder, "metrics.json")) or b"{}")
        path = os.path.join(folder, summary["data_dir"])
    except (ValueError, KeyError, TypeError):
        return ""
    return path if os.path.isdir(path) else ""


class Inspector:
    """Shows samples and responds to selections. DataError: the folder does not exist or has no samples.

    client  a Visdom client with an incoming socket
    """

    def __init__(self, client: Client, config: InspectConfig):
        self.client, self.config = client, config
        if not os.path.isdir(config.samples):
            raise DataError(f"--samples {config.samples}: no such folder")
        names = sorted(
            name.removesuffix("_samples.npz") for name in os.listdir(config.samples) if name.endswith("_samples.npz")
        )
        if not names:
            raise DataError(f"{config.samples}: no samples; draw them with segmentation_sample.py")
        data_dir = config.data_dir or scored_on(config.samples)
        self.folders, self.data_dir = dict(find_cases(data_dir)) if data_dir else {}, data_dir
        self.readers: dict[DataConfig, CaseReader] = {}
        self.figures = read_figures(config.samples)
        self.spread = {name: self._mean_variance(name) for name in names}
        self.order, self.names = "name", names
        self.case, self.threshold = names[0], self._nearest_threshold(names[0])

    def _samples(self, name: str) -> tuple[Shaped[np.ndarray, "M *K H W"], Mapping[str, Any]]:
        return store.read_case(store.samples_path(self.config.samples, name))

    def _mean_variance(self, name: str) -> float | None:
        """Mean of the variance map of a case's masks at the network's size; None: its samples are unreadable."""
        try:
            samples, made_by = self._samples(name)
            classes = data_config_of(made_by).class_set
            return float(variance_map(binarise(samples, postprocess_of(made_by), classes=classes)).mean())
        except DataError:
            return None

    def _nearest_threshold(self, name: str) -> float:
        """The element of THRESHOLDS nearest to the threshold of a case's masks."""
        try:
            made_with = postprocess_of(self._samples(name)[1]).threshold
        except DataError:
            made_with = PostprocessConfig.threshold
        return min(THRESHOLDS, key=lambda threshold: abs(threshold - made_with))

    def figure(self, name: str, order: str) -> float | None:
        """A case's value of the sort key `order`; None: it has none."""
        if order == "variance":
            return self.spread[name]
        figures = self.figures.get(name, {}).items()
        return next((value for figure, value in figures if figure.rpartition("_")[0] == order), None)

    def sorted_names(self) -> list[str]:
        """The cases in descending order of the sort key; cases without a value are last."""
        if self.order == "name":
            return sorted(self.names)
        values = {name: self.figure(name, self.order) for name in self.names}
        return sorted(self.names, key=lambda name: (values[name] is None, -(values[name] or 0), name))

    def label(self, name: str) -> str:
        """A case's entry in the list, with its value of the sort key."""
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
        """The case's sheet, with masks at the selected threshold and postprocessing as written."""
        samples, made_by = self._samples(self.case)
        finish = replace(postprocess_of(made_by), threshold=self.threshold)
        case, colour = self._case(samples, made_by)
        geometry = case.geometry if finish.output_size == "own" else None
        data = data_config_of(made_by)
        masks = binarise(samples, finish, geometry.bring_back if geometry else None, data.class_set)
        shown = case if geometry else fit(case, samples.shape[-2:], data.pad, data.class_set.exclusive)[0]
        image = pictures.shown_image(shown.image, colour)
        return pictures.sheet(image, shown.raters, masks, MOST_SHOWN, data.class_set)

    def _case(self, samples: Shaped[np.ndarray, "M *K H W"], made_by: Mapping[str, Any]) -> tuple[CaseArrays, bool]:
        """The case at its own size, read with the samples' settings, and whether it is in colour.

        For an unknown case, the samples' mean and no raters.
        """
        name = made_by.get("case", self.case)  # stored where the names of files are shortened
        size = (samples.shape[-2], samples.shape[-1])
        if name not in self.folders:
            mean = np.clip(samples.mean(0, dtype=np.float32).reshape(-1, *size).sum(axis=0), 0, 1)[None]
            no_raters = np.zeros((0, *samples.shape[1:]), dtype=bool)
            return bring_back(CaseArrays(mean, no_raters, store.geometry_of(made_by))), False
        data = described(data_config_of(made_by), self.data_dir)
        reader = self._reader(data)
        own = reader.read(self.folders[name])
        if own.size != size and network_size(store.spread(made_by) if "flags" in made_by else made_by) != size:
            raise DataError(f"{self.case}: samples have {size} pixels, the image {own.size}; check --data_dir")
        fitted = fit(own._replace(raters=own.raters[:0]), size, data.pad)[0]
        return own._replace(geometry=fitted.geometry), reader.colour

    def _reader(self, data_config: DataConfig) -> CaseReader:
        """The reader, which has surveyed all cases; faults of a case appear when it is read."""
        if data_config not in self.readers:
            reader = self.readers[data_config] = CaseReader(None, None, data_config, require_raters=False)
            reader.faults_of(list(self.folders.items()))
        return self.readers[data_config]

    # -- events -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Show the first case and listen for events."""
        self._show_or_explain()
        self.client.register_event_handler(self.on_event, CHOICE)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Handle an event of the window with the choices.

        Invalid values, and events of other environments, are ignored.
        ConnectionError: all ATTEMPTS to update the windows failed.
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
            except ConnectionError:  # retry, because a busy server would keep showing the old selection
                if not attempts_left:
                    raise

    def _choose(self, place: int, value: Any) -> None:
        """Apply the value selected in row `place` of the form."""
        if place == 0:
            self.order = SORTED_BY[int(value)]
        elif place == 1:
            self.case = self.sorted_names()[int(value)]
        else:
            self.threshold = THRESHOLDS[int(value)]

    def _show_or_explain(self) -> None:
        try:
            self.show()
        except DataError as error:  # concerns this case only; others can be selected
            self._show_text(escape(str(error)))


def choice(name: str, values: Sequence[str], chosen: int) -> dict[str, Any]:
    """A row of Visdom's properties form."""
    return {"type": "select", "name": name, "value": chosen, "values": list(values)}
