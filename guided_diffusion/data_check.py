"""Everything that can be wrong with a folder of cases, in one pass, and what is in it."""

import collections
import csv
import io
import os
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from tqdm import tqdm

from . import metrics, pictures, storage
from .case_folder import read_split
from .case_reader import CaseReader, case_files, find_cases
from .image_files import DataError, read_label, resize

SHEET_CASES, SHEET_SIDE = 16, 128


@dataclass(frozen=True)
class CheckConfig:
    data_dir: Annotated[str, "folder of cases, with or without splits"] = ""
    sheet: Annotated[str, "picture of some cases to write; empty: none"] = "results/check_data.png"


def check_data(config, data_config, tell=print):
    """Tell every fault with its file, and what the cases are like. Returns the number of faults."""
    folders = find_cases(config.data_dir)
    reader, faults = CaseReader(config=data_config), []
    shapes, raters_of, seen = collections.Counter(), collections.Counter(), collections.Counter()
    levels, empty, masks_in_all, agreement = 0, 0, 0, collections.defaultdict(list)
    shown = set(np.unique(np.linspace(0, len(folders) - 1, SHEET_CASES).round().astype(int)).tolist())
    rows = []
    for k, (name, folder) in enumerate(tqdm(folders, unit="case", delay=2, leave=False, dynamic_ncols=True)):
        try:
            image, raters = reader.read(folder)
        except DataError as error:
            faults.append(str(error))
            continue
        shapes[f"{image.shape[2]}x{image.shape[1]}" + (f" of {len(image)} modalities" if len(image) > 1 else "")] += 1
        raters_of[len(raters)] += 1
        seen[_split_of(config.data_dir, folder)] += 1
        empty += int((~raters.any((1, 2))).sum())
        masks_in_all += len(raters)
        levels += sum(read_label(file, data_config.label_threshold, data_config.merge_labels)[1] > 2 for file in case_files(folder)[1])
        if len(raters) > 1:
            pairs = ~np.eye(len(raters), dtype=bool)
            agreement["IoU"].append(metrics.iou_matrix(raters, raters)[pairs].mean())
            agreement["Dice"].append(metrics.dice_matrix(raters, raters)[pairs].mean())
            agreement["GED of one rater against all"].append(np.mean([metrics.squared_ged(rater[None], raters).total for rater in raters]))
        if np.ptp(image) == 0:
            faults.append(f"{folder}: the image has a single grey level; replace or remove it")
        if k in shown:
            rows.append([(name[:20], _small(image[0]))] + [(f"rater {r}", _small(mask) > 0.5) for r, mask in enumerate(raters[:7])])
    faults += split_faults(config.data_dir)

    tell(f"{sum(seen.values())} of {len(folders)} cases can be read: " + ", ".join(f"{split or 'no split'} {count}" for split, count in sorted(seen.items())))
    for title, counts in (("sizes", shapes), ("raters", raters_of)):
        tell(f"{title}: " + ", ".join(f"{what} in {count} cases" for what, count in sorted(counts.items(), key=lambda item: -item[1])))
    if masks_in_all:
        tell(f"empty masks: {empty} of {masks_in_all} ({100 * empty / masks_in_all:.1f} %)")
    if levels:
        tell(f"{levels} JPEG labels have more than two levels, and are cut at {data_config.label_threshold:g} of full scale (--label_threshold)")
    for title, values in agreement.items():
        tell(f"{title + (' of two raters' if title in ('IoU', 'Dice') else '')}: {np.mean(values):.3f} on average over {len(values)} cases")
    if config.sheet and rows:
        storage.make_folder(os.path.dirname(config.sheet) or ".")
        storage.write_atomically(config.sheet, lambda file: pictures.grid(rows).save(file, format="PNG"))
        tell(f"{len(rows)} of the cases: {config.sheet}")
    for fault in faults:
        tell(f"fault: {fault}")
    tell(f"{len(faults)} faults" if faults else "no faults")
    return len(faults)


def _split_of(data_dir, folder):
    """The first folder below data_dir, if a case lies deeper."""
    parts = os.path.relpath(folder, data_dir).split(os.sep)
    return parts[0] if len(parts) > 1 else ""


def _small(plane):
    """A plane on a tile of the sheet."""
    return resize(np.asarray(plane, dtype=np.float32), SHEET_SIDE)


def split_faults(data_dir):
    """Patients on both sides of a split, by split.json and by manifest.csv, and cases that lie in another split than that says."""
    faults, split = [], {}
    try:
        split, _ = read_split(data_dir)
    except DataError as error:
        faults.append(str(error))
    content = storage.read_bytes(os.path.join(data_dir, "manifest.csv"))
    sides = collections.defaultdict(set)
    for row in csv.DictReader(io.StringIO((content or b"").decode(errors="replace"))):
        found = [name for name in ("training", "validation", "testing") if os.path.isdir(os.path.join(data_dir, name, row.get("case") or "-"))]
        if found != [row.get("split")]:
            faults.append(f"{data_dir}/manifest.csv: case {row.get('case')} is in {', '.join(found) or 'no split'}, not in {row.get('split')}; move it back")
        sides[row.get("patient")] |= set(found)
        if row.get("patient") in split and found and split[row["patient"]] not in found:
            faults.append(f"{data_dir}/split.json: patient {row['patient']} is in {split[row['patient']]}, but case {row['case']} in {found[0]}; move it")
    for patient, where in sorted(sides.items(), key=str):
        if len(where) > 1:
            faults.append(f"{data_dir}: patient {patient} is in {' and '.join(sorted(where))}; put all cases of a patient into one split")
    return faults
