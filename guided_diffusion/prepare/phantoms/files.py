"""Writes phantoms in the formats of real data sets, to try out the data preparation tools.

DICOM with LIDC's XML (`lidc_files`), the published versions of LIDC-IDRI, and challenge data sets.
"""

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
from PIL import Image

from . import phantom
from .cases import PhantomCase, by_patient
from .lidc_files import write_lidc

MODALITIES = ("flair", "t1", "t1ce", "t2")


def make_cases(
    num_cases: int, seed: int, size: int = 128, num_raters: int = 4, **more: Unpack[phantom.SceneOptions]
) -> list[PhantomCase]:
    """Phantoms, two per patient; grey levels are multiples of 1/255, which every format preserves."""
    cases = []
    for index in range(num_cases):
        made = phantom.make_phantom(seed, index, size, num_raters, **more)
        planes = {name: np.round(plane * 255) / 255 for name, plane in zip(MODALITIES, made.images, strict=False)}
        cases.append(PhantomCase(f"case{index:03d}", f"patient{index // 2:03d}", planes, made.raters))
    return cases


def write(form: str, out: str, cases: Sequence[PhantomCase]) -> None:
    """Write `cases` to the folder `out` in one of the formats of make_phantom.py."""
    writers: dict[str, Callable[[str, Sequence[PhantomCase]], None]] = {
        "lidc": write_lidc,
        "pickle": lambda out, cases: write_pickle(os.path.join(out, "data_lidc.pickle"), cases),
        "hdf5": lambda out, cases: write_hdf5(os.path.join(out, "data_lidc.hdf5"), cases),
        "crops": write_crops,
        "qubiq": write_qubiq,
        "brats": write_brats,
        "ms-mri": write_ms,
        "folders": write_folders,
    }
    writers[form](out, cases)


def _save_grey(path: str, plane: np.ndarray) -> None:
    """Save a plane in [0, 1] as an 8-bit picture."""
    Image.fromarray(np.round(plane * 255).astype(np.uint8)).save(path)


# -- published versions of LIDC-IDRI ----------------------------------------------------------------------------------


def write_pickle(path: str | os.PathLike[str], cases: Sequence[PhantomCase]) -> None:
    """data_lidc.pickle: {key: {image [H, W] in [0, 1], masks: list of [H, W] 0/1, series_uid}}."""
    content = {
        case.name: {
            "image": case.grey,
            "masks": [mask.astype(np.float64) for mask in case.raters],
            "series_uid": case.patient,
        }
        for case in cases
    }
    with open(path, "wb") as file:
        pickle.dump(content, file)


def write_hdf5(path: str | os.PathLike[str], cases: Sequence[PhantomCase], raters_last: bool = True) -> None:
    """The file of PHiSeg (raters last) or CCDM: groups train, val, test with images [N, H, W] minus 0.5, and labels."""
    import h5py

    with h5py.File(path, "w") as file:
        for k, split in enumerate(("train", "val", "test")):
            own = cases[k::3]
            if not own:
                continue
            labels = np.stack([case.raters for case in own]).astype(np.uint8)
            group = file.create_group(split)
            group["images"] = np.stack([case.grey for case in own]) - 0.5
            group["labels"] = np.moveaxis(labels, 1, -1) if raters_last else labels


def write_crops(out: str, cases: Sequence[PhantomCase]) -> None:
    """The PNG crops: SPLIT/images/PATIENT/z-Z_cK.png and SPLIT/gt/PATIENT/z-Z_cK_lR.png."""
    for k, case in enumerate(cases):
        split = ("train", "val", "test")[int(case.patient[-3:]) % 3]
        images, masks = (os.path.join(out, split, kind, case.patient) for kind in ("images", "gt"))
        os.makedirs(images, exist_ok=True)
        os.makedirs(masks, exist_ok=True)
        _save_grey(os.path.join(images, f"z-{k}.5_c0.png"), case.grey)
        for reader, mask in enumerate(case.raters):
            _save_grey(os.path.join(masks, f"z-{k}.5_c0_l{reader}.png"), mask)


# -- challenges -------------------------------------------------------------------------------------------------------


def _write_nifti(path: str, array: np.ndarray) -> None:
    import nibabel

    os.makedirs(os.path.dirname(path), exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def write_qubiq(out: str, cases: Sequence[PhantomCase]) -> None:
    """CASE/image.nii.gz and CASE/task01_segRR.nii.gz; several modalities are stacked along the first axis."""
    for case in cases:
        folder = os.path.join(out, case.name)
        stack = np.stack([np.round(plane.T * 255) for plane in case.planes.values()]).astype(np.int16)
        _write_nifti(os.path.join(folder, "image.nii.gz"), stack[0] if len(stack) == 1 else stack)
        for k, mask in enumerate(case.raters):
            _write_nifti(os.path.join(folder, f"task01_seg{k + 1:02d}.nii.gz"), mask.T.astype(np.uint8))


def write_brats(out: str, cases: Sequence[PhantomCase]) -> None:
    """Slices of the implicit-ensembles code: brats_SET_PATIENT_MODALITY_SLICE_w.nii.gz, tumour classes 1 and 4."""
    for k, case in enumerate(cases):
        path = os.path.join(out, case.name, f"brats_train_{int(case.patient[-3:]):03d}_{{}}_{k:03d}_w.nii.gz")
        for modality, plane in case.planes.items():
            _write_nifti(path.format(modality), np.round(plane.T * 255).astype(np.int16))
        classes = case.raters[0].astype(np.uint8)
        classes[: len(classes) // 2] *= 4
        _write_nifti(path.format("seg"), classes.T)


def write_ms(out: str, cases: Sequence[PhantomCase]) -> None:
    """Multiple-sclerosis volumes: PATIENT_VISIT_MODALITY_pp.nii.gz and PATIENT_VISIT_maskR.nii.gz.

    The slices of a volume are the cases of a patient.
    """
    for number, own in enumerate(by_patient(cases).values()):
        stem = f"training{number + 1:02d}_01"
        for modality, title in zip(own[0].planes, ("flair", "mprage", "t2", "pd"), strict=False):
            volume = np.stack([np.round(case.planes[modality].T * 255) for case in own], axis=-1)
            _write_nifti(os.path.join(out, stem, "preprocessed", f"{stem}_{title}_pp.nii.gz"), volume.astype(np.int16))
        for k in range(len(own[0].raters)):
            masks = np.stack([case.raters[k].T for case in own], axis=-1)
            _write_nifti(os.path.join(out, stem, "masks", f"{stem}_mask{k + 1}.nii.gz"), masks.astype(np.uint8))


def write_folders(out: str, cases: Sequence[PhantomCase]) -> None:
    """CASE/scan.png and CASE/expertR_mask.png: an image and masks that do not follow a known layout."""
    for case in cases:
        os.makedirs(os.path.join(out, case.name), exist_ok=True)
        _save_grey(os.path.join(out, case.name, "scan.png"), case.grey)
        for k, mask in enumerate(case.raters):
            _save_grey(os.path.join(out, case.name, f"expert{k}_mask.png"), mask)
