"""
Published data sets and preparations -> `RawCase`s, format by format. docs/data.md says where each comes from.

A converter takes a ConvertConfig and yields cases; faults in its source are DataErrors that name the file.
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from . import safe_pickle
from .case_folder import SPLIT_NAMES, STAGE, CaseFolder, RawCase, assign_splits, read_split, safe_name
from .image_files import DataError, read_pixels
from .nn import ConfigError

PICTURE = re.compile(r"\.(png|jpe?g|bmp|tiff?)$", re.IGNORECASE)
MASK = re.compile(r"(?<![a-z])(mask|label|seg|gt|rater|expert|annot)|mask", re.IGNORECASE)
MOST_PIXELS = 2**27  # of an image or a volume, with all its masks
BRATS = ("flair", "t1", "t1ce", "t2")
MS = (("flair",), ("t1", "mprage", "f1"), ("t2", "f2"), ("pd",))  # names of each modality


@dataclass(frozen=True)
class ConvertConfig:
    src: Annotated[str, "file or folder of the source"] = ""
    out: Annotated[str, "folder to write cases into"] = ""
    task: Annotated[int, "qubiq: number of the task"] = 1
    min_raters: Annotated[int, "raters who marked something in an image for it to be a case"] = 0
    label_threshold: Annotated[float, "of JPEG masks: foreground above this share of full scale"] = 0.5
    seed: Annotated[int, "of the split by patient, where the source has none"] = 0


def _scaled(values):
    """Grey levels of any range as floats in [0, 1], by their own least and greatest."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("grey levels that are not finite")
    low, high = values.min(), values.max()
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


def _in_unit_range(image, source):
    image = np.asarray(image, dtype=np.float64)
    if image.ndim != 2 or not np.isfinite(image).all() or image.min() < -1e-6 or image.max() > 1 + 1e-6:
        raise DataError(f"{source}: images [H, W] with values in [0, 1] are wanted")
    return image


# -- preparations of LIDC ---------------------------------------------------------------------------------------------


def lidc_pickle(config):
    """data_lidc.pickle: {key: {image [H, W] in [0, 1], masks: arrays of 0 and 1, series_uid}}."""
    content = safe_pickle.load(config.src)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{config.src}: a dict of cases is wanted")
    for key, entry in content.items():
        source = f"{config.src}, {str(key)[:80]}"
        try:
            image, masks, patient = entry["image"], list(entry["masks"]), str(entry["series_uid"])
            if not masks or not all(isinstance(array, np.ndarray) and array.shape == image.shape for array in (image, *masks)):
                raise ValueError(f"arrays of unlike shapes {sorted({np.shape(array) for array in (image, *masks)}, key=str)}")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"{source}: image, masks and series_uid are wanted ({error})") from error
        yield RawCase(str(key), {"": _in_unit_range(image, source)}, [mask > 0.5 for mask in masks], patient, told={"series": patient})


def lidc_hdf5(config):
    """PHiSeg's and CCDM's files: groups train, val, test; images [N, H, W] less 0.5, labels [N, H, W, R] or [N, R, H, W]."""
    try:
        import h5py
    except ImportError:
        raise DataError('HDF5 needs h5py; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    try:
        file = h5py.File(config.src, "r")
    except OSError as error:
        raise DataError(f"{config.src}: cannot be read as HDF5 ({error})") from error
    with file:
        groups = [name for name in file if name in SPLIT_NAMES]
        if not groups:
            raise DataError(f"{config.src}: groups train, val and test are wanted, {', '.join(file) or 'none'} are there")
        for group in groups:
            if not {"images", "labels"} <= file[group].keys():
                raise DataError(f"{config.src}, {group}: images and labels are wanted")
            images, labels = file[group]["images"], file[group]["labels"]
            if images.ndim != 3 or labels.ndim != 4 or len(images) != len(labels):
                raise DataError(f"{config.src}, {group}: images {images.shape} and labels {labels.shape} do not belong together")
            _refuse_huge(labels.shape[1:], f"{config.src}, {group}")
            if any(d.external or d.is_virtual or d.file.filename != file.filename for d in (images, labels)):
                raise DataError(f"{config.src}, {group}: it takes its values from other files, which is refused")
            last = labels.shape[1:3] == images.shape[1:]
            for k in range(len(images)):  # one at a time: the files are large
                name = f"{group}{k:05d}"
                try:
                    image, masks = np.asarray(images[k], dtype=np.float64) + 0.5, np.asarray(labels[k]) > 0
                except OSError as error:
                    raise DataError(f"{config.src}, {name}: cannot be read ({error}); download the file again") from error
                masks = np.moveaxis(masks, -1, 0) if last else masks
                yield RawCase(name, {"": _in_unit_range(image, f"{config.src}, {name}")}, masks, name, SPLIT_NAMES[group])


def lidc_crops(config):
    """The PNG crops: SPLIT/images/PATIENT/z-Z_cK.png, SPLIT/gt/PATIENT/z-Z_cK_lR.png."""
    for split in _folders(config.src):
        if split not in SPLIT_NAMES:
            continue
        for patient in _folders(os.path.join(config.src, split, "images")):
            images, labels = (os.path.join(config.src, split, kind, patient) for kind in ("images", "gt"))
            for file in filter(PICTURE.search, _files(images)):
                stem, _ = os.path.splitext(file)
                masks = [f for f in _files(labels) if re.fullmatch(re.escape(stem) + r"_l\d+\.png", f)]
                masks = sorted(masks, key=lambda f: int(re.search(r"_l(\d+)\.", f)[1]))
                if not masks:
                    raise DataError(f"{os.path.join(labels, stem)}_l0.png: there is no mask for {os.path.join(images, file)}")
                raters = [_mask(os.path.join(labels, mask), config) for mask in masks]
                name = re.sub(r"[^A-Za-z0-9_.\-]", "_", f"{patient}_{stem}")
                yield RawCase(name, {"": _picture(os.path.join(images, file))}, raters, patient, SPLIT_NAMES[split], {"slice": stem})


# -- challenges and other sets ----------------------------------------------------------------------------------------


def qubiq(config):
    """CASE/image.nii.gz, CASE/task01_seg01.nii.gz, ...; modalities, or slices, along a third axis."""
    for folder in _folders_with(config.src, "image.nii.gz"):
        name = safe_name(os.path.relpath(folder, config.src).replace(os.sep, "-"), config.src)
        wanted = re.compile(rf"task{config.task:02d}_seg(\d+)\.nii(\.gz)?")
        files = sorted((file for file in os.listdir(folder) if wanted.fullmatch(file)), key=lambda f: int(wanted.fullmatch(f)[1]))
        if not files:
            raise DataError(f"{folder}: no task{config.task:02d}_seg01.nii.gz (--task)")
        image = np.squeeze(_nifti(os.path.join(folder, "image.nii.gz")))
        masks = [np.squeeze(_nifti(os.path.join(folder, file))) > 0 for file in files]
        if image.ndim == 2:
            yield RawCase(name, {"": _scaled(image)}, masks, name)
        elif image.ndim == 3 and masks[0].ndim == 2:  # modalities
            axis = next((axis for axis in range(3) if np.delete(image.shape, axis).tolist() == list(masks[0].shape)), None)
            if axis is None:
                raise DataError(f"{folder}: an image of {image.shape} and masks of {masks[0].shape} do not belong together")
            planes = np.moveaxis(image, axis, 0)
            yield RawCase(name, {f"m{k}": _scaled(plane) for k, plane in enumerate(planes)}, masks, name)
        else:
            yield from _slices(name, {"": image}, masks, name)


def brats(config):
    """Slices of the implicit-ensembles code: X_X_PATIENT_MODALITY_SLICE_X.nii.gz, 240x240, cut by 8 at each side; all classes merged."""
    groups = defaultdict(dict)
    for base, _, files in os.walk(config.src):
        for file in sorted(files):
            parts = file.split("_")
            if file.endswith((".nii", ".nii.gz")) and len(parts) > 4:
                groups[base, "_".join(parts[:3] + parts[4:])][parts[3]] = os.path.join(base, file)
    for (base, stem), files in sorted(groups.items()):
        if missing := [modality for modality in (*BRATS, "seg") if modality not in files]:
            raise DataError(f"{os.path.join(base, stem)}: the modality {missing[0]} is missing")
        arrays = {modality: np.squeeze(_nifti(path)) for modality, path in files.items()}
        if arrays["flair"].shape == (240, 240):
            arrays = {modality: array[8:-8, 8:-8] for modality, array in arrays.items()}
        name = re.sub(r"\.nii(\.gz)?$", "", stem)
        planes = {modality: _scaled(arrays[modality]) for modality in BRATS}
        yield RawCase(name, planes, (arrays["seg"] > 0)[None], "_".join(stem.split("_")[:3]))


def ms_mri(config):
    """Multiple sclerosis: *_flair_*, *_t1_* or *_mprage_*, *_t2_*, *_pd_* volumes, *_mask1*, *_mask2*; a case for each axial slice."""
    groups = defaultdict(dict)
    for base, _, files in os.walk(config.src):
        for file in sorted(files):
            if match := re.fullmatch(r"(.+?)_(flair|mprage|t1|f1|t2|f2|pd|mask\d+)(?:_.*)?\.nii(?:\.gz)?", file, re.IGNORECASE):
                groups[match[1]][match[2].lower()] = os.path.join(base, file)
    for stem, files in sorted(groups.items()):
        chosen = {names[0]: next((files[name] for name in names if name in files), None) for names in MS}
        masks = [files[name] for name in sorted(files) if name.startswith("mask")]
        if missing := [name for name, path in chosen.items() if path is None] or ([] if masks else ["mask1"]):
            raise DataError(f"{config.src}: {stem} has no {missing[0]}")
        volumes = {name: _scaled(_nifti(path)) for name, path in chosen.items()}
        yield from _slices(stem, volumes, [_nifti(path) > 0 for path in masks], stem.split("_")[0], unit=True)


def folders(config):
    """Folders with one picture and masks of any names that say so (mask, label, seg, gt, rater, expert), PNG or JPEG."""
    for base, subfolders, files in os.walk(config.src):
        subfolders.sort()
        pictures = sorted(file for file in files if PICTURE.search(file))
        masks, images = ([file for file in pictures if bool(MASK.search(file)) == is_mask] for is_mask in (True, False))
        if not masks or not images:
            continue
        if len(images) > 1:
            raise DataError(f"{base}: {len(images)} pictures whose names are no mask's, {images[0]} and {images[1]}; one is wanted")
        name = os.path.relpath(base, config.src).replace(os.sep, "-")
        name = os.path.basename(os.path.abspath(base)) if name == "." else name
        in_order = sorted(masks, key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file)])
        raters = [_mask(os.path.join(base, mask), config) for mask in in_order]
        yield RawCase(name, {"": _picture(os.path.join(base, images[0]))}, raters, name)


FORMATS = {
    "lidc-pickle": lidc_pickle, "lidc-hdf5": lidc_hdf5, "lidc-crops": lidc_crops, "qubiq": qubiq, "brats": brats, "ms-mri": ms_mri,
    "folders": folders,
}  # fmt: skip


# -- reading ----------------------------------------------------------------------------------------------------------


def _refuse_huge(shape, source):
    """Refuse what no image of the field is before memory is taken for it."""
    if int(np.prod(shape, dtype=object)) > MOST_PIXELS:
        raise DataError(f"{source}: images of {'x'.join(map(str, shape))} pixels, more than {MOST_PIXELS:,}; is it what it says?")


def _folders(path):
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder")
    return sorted(name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name)))


def _files(path):
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def _folders_with(path, file):
    found = [base for base, _, files in os.walk(path) if file in files]
    if not found:
        raise DataError(f"{path}: no folder with {file}")
    return sorted(found)


def _picture(path):
    """Grey levels as they are stored, uint8 or uint16."""
    pixels, full_scale = read_pixels(path)
    return pixels.astype(np.uint8 if full_scale == 255 else np.uint16)


def _mask(path, config):
    pixels, full_scale = read_pixels(path)
    lossy = path.lower().endswith((".jpg", ".jpeg"))
    return pixels > (config.label_threshold * full_scale if lossy else 0)


def _nifti(path):
    """The array of a NIfTI file, rows first, so that pictures stand as viewers show them."""
    try:
        import nibabel
    except ImportError:
        raise DataError('NIfTI needs nibabel; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    try:
        stored = nibabel.load(path).dataobj
        _refuse_huge(stored.shape, path)
        array = np.asarray(stored)
    except DataError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise DataError(f"{path}: cannot be read ({error}); replace or remove it") from error
    return np.swapaxes(array, 0, 1) if array.ndim != 3 or array.shape[0] > 8 else np.swapaxes(array, 1, 2)


def _slices(name, volumes, masks, patient, unit=False):
    """A RawCase for each slice along the last axis. `unit`: the volumes lie in [0, 1] already."""
    shapes = {volume.shape for volume in volumes.values()} | {mask.shape for mask in masks}
    if len(shapes) != 1:
        raise DataError(f"{name}: volumes of {sorted(shapes)} do not belong together")
    for k in range(next(iter(shapes))[-1]):
        planes = {modality: volume[..., k] if unit else _scaled(volume[..., k]) for modality, volume in volumes.items()}
        yield RawCase(f"{name}_z{k:03d}", planes, [mask[..., k] for mask in masks], patient, told={"slice": k})


# -- all of it --------------------------------------------------------------------------------------------------------


def convert(name, config, tell=print):
    """Write every case of a source of the format `name` into config.out. Returns the rows of the manifest."""
    if name not in FORMATS:
        raise ConfigError(f"the format {name} is unknown: choose one of {', '.join(FORMATS)}")
    for flag in ("src", "out"):
        if not getattr(config, flag):
            raise ConfigError(f"--{flag} is missing")
    if not os.path.exists(config.src):
        raise DataError(f"{config.src}: no such file or folder (--src)")
    if config.seed < 0 or config.min_raters < 0 or config.task < 0 or not 0 <= config.label_threshold < 1:
        raise ConfigError("--seed, --min_raters and --task want at least 0, --label_threshold from 0 to below 1")
    if os.path.exists(os.path.join(config.out, "manifest.csv")):
        raise ConfigError(f"--out {config.out} holds converted cases already: name a new folder")
    out, split = CaseFolder(config.out, config.src), {}
    known, _ = read_split(config.out)
    staged, passed_over = [], 0
    for case in FORMATS[name](config):
        if case.id in out.written:
            raise DataError(f"{config.src}: two cases are named {case.id}; rename one")
        if sum(bool(np.any(mask)) for mask in case.raters) < config.min_raters:
            passed_over += 1
            continue
        staged.append((case.patient, case.split, out.write(case, case.split or STAGE)))
    if not staged:
        raise DataError(f"{config.src}: no case of the format {name}" + (f" ({passed_over} have too few raters: --min_raters)" if passed_over else ""))
    drawn = assign_splits({patient for patient, own, _ in staged if own is None}, config.seed, known)
    rows = []
    for patient, own, row in staged:
        if split.setdefault(patient, own or drawn[patient]) != (own or drawn[patient]):
            raise DataError(f"{config.src}: patient {patient} is in {split[patient]} and {own}; put all cases of a patient into one split")
        rows.append(out.move(row, split[patient]))
    out.finish(rows, split, config.seed)
    counts = ", ".join(f"{name} {sum(row['split'] == name for row in rows)}" for name in ("training", "validation", "testing"))
    tell(f"{len(rows)} cases of {len(split)} patients in {config.out}: {counts}" + (f"; {passed_over} with too few raters passed over" if passed_over else ""))
    return rows
