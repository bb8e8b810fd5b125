"""Phantoms in the real formats of the field, to try the tools of data preparation on: DICOM with LIDC's XML, the files of published
preparations, and folders of challenges.

Each writer takes `cases`: [(name, patient, planes {modality: [H, W] in [0, 1]}, raters [R, H, W] bool)].
"""

import os
import pickle

import numpy as np
from PIL import Image
from scipy import ndimage

from . import phantom

NAMESPACE = "http://www.nih.gov"
MODALITIES = ("flair", "t1", "t1ce", "t2")


def make_cases(num_cases, seed, size=128, num_raters=4, **more):
    """`cases` of phantoms, two of each patient; grey levels are whole 8-bit ones, which every format keeps."""
    cases = []
    for index in range(num_cases):
        made = phantom.make_phantom(seed, index, size, num_raters, **more)
        planes = {name: np.round(plane * 255) / 255 for name, plane in zip(MODALITIES, made.images, strict=False)}
        cases.append((f"case{index:03d}", f"patient{index // 2:03d}", planes, made.raters))
    return cases


def _grey(planes):
    return next(iter(planes.values()))


# -- LIDC-IDRI --------------------------------------------------------------------------------------------------------


def trace_outside(mask):
    """The closed chain of pixels just outside a 4-connected mask without holes, [N, 2] (x, y), as LIDC's outlines run.

    Walks clockwise along the sides of the mask's pixels and takes the pixel beyond each side.
    """
    mask = np.pad(mask, 2)
    at, side, chain, start = tuple(np.argwhere(mask)[0]), 0, [], None
    normals = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # above, right, below, left
    while (at, side) != start:
        start = start or (at, side)
        (ny, nx), (ty, tx) = normals[side], normals[(side + 1) % 4]
        if not chain or chain[-1] != (at[1] + nx - 2, at[0] + ny - 2):
            chain.append((at[1] + nx - 2, at[0] + ny - 2))
        ahead, beyond = (at[0] + ty, at[1] + tx), (at[0] + ty + ny, at[1] + tx + nx)
        if not mask[ahead]:
            side = (side + 1) % 4
        elif mask[beyond]:
            at, side = beyond, (side + 3) % 4
        else:
            at = ahead
    return np.array(chain)


def outlines_of(mask):
    """[(inclusion, points)] of a mask: a chain for each part, and one for each of its holes."""
    outlines = []
    parts, count = ndimage.label(mask)
    for k in range(1, count + 1):
        part = parts == k
        whole = ndimage.binary_fill_holes(part)
        outlines.append((True, trace_outside(whole)))
        holes, hole_count = ndimage.label(whole & ~part)
        outlines += [(False, trace_outside(holes == h)) for h in range(1, hole_count + 1)]
    return outlines


def write_xml(path, series_uid, sessions):
    """What the readers drew on a series, as LIDC's XML.

    sessions  of each reader [(nodule ID, [(SOP UID, z, inclusion, points [N, 2])])]
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<LidcReadMessage xmlns="{NAMESPACE}" uid="1.2.3">',
        "<ResponseHeader>",
        f"<SeriesInstanceUid>{series_uid}</SeriesInstanceUid>",
        "</ResponseHeader>",
    ]
    for nodules in sessions:
        lines.append("<readingSession><annotationVersion>3.12</annotationVersion>")
        for nodule_id, rois in nodules:
            lines.append(f"<unblindedReadNodule><noduleID>{nodule_id}</noduleID>")
            for sop_uid, z, inclusion, points in rois:
                edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
                lines.append(
                    f"<roi><imageZposition>{z}</imageZposition><imageSOP_UID>{sop_uid}</imageSOP_UID>"
                    f"<inclusion>{'TRUE' if inclusion else 'FALSE'}</inclusion>{edges}</roi>"
                )
            lines.append("</unblindedReadNodule>")
        lines.append("</readingSession>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join([*lines, "</LidcReadMessage>\n"]))


def write_slice(
    path,
    hounsfield,
    z,
    *,
    series_uid,
    sop_uid,
    patient,
    spacing=(0.5, 0.5),
    slope=1,
    intercept=-1024,
    big_endian=False,
    leave_out=(),
):
    """One CT slice [H, W] in Hounsfield units as a DICOM file. `leave_out` names tags that it shall not have."""
    import pydicom
    from pydicom import uid

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian if big_endian else uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = uid.CTImageStorage, sop_uid
    data.SeriesInstanceUID, data.StudyInstanceUID, data.PatientID, data.Modality = (
        series_uid,
        f"{series_uid}.1",
        patient,
        "CT",
    )
    data.ImagePositionPatient, data.PixelSpacing = [0, 0, z], list(spacing)
    data.Rows, data.Columns = hounsfield.shape
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    stored = np.round((hounsfield - intercept) / slope).astype(">i2" if big_endian else "<i2")
    data.PixelData = stored.tobytes()
    for tag in leave_out:
        delattr(data, tag)
    data.save_as(path, enforce_file_format=True)


def write_lidc(out, cases, size=512, window=(-1000, 400), spacing=(0.5, 0.5)):
    """DICOM series below OUT/dicom and XML in OUT/xml: a series for each patient, a slice for each case, with the case's pixels in its
    middle and air around them; larger cases make larger slices than `size`. spacing: mm between rows and columns.
    """
    size = max(size, *(len(_grey(planes)) for _, _, planes, _ in cases))
    by_patient = {}
    for case in cases:
        by_patient.setdefault(case[1], []).append(case)
    for number, (patient, own) in enumerate(sorted(by_patient.items())):
        series_uid = f"1.2.826.0.1.3680043.8.498.{number + 1}"
        folder = os.path.join(out, "dicom", patient)
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.join(out, "xml"), exist_ok=True)
        num_raters = len(own[0][3])
        sessions = [[] for _ in range(num_raters)]
        for index, (name, _, planes, raters) in enumerate(own):
            plane, z, sop_uid = _grey(planes), -100.0 + 2.5 * index, f"{series_uid}.{index + 1}"
            top = (size - len(plane)) // 2
            hounsfield = np.full((size, size), window[0], dtype=np.float64)
            hounsfield[top : top + len(plane), top : top + len(plane)] = window[0] + plane * (window[1] - window[0])
            write_slice(
                os.path.join(folder, f"{index:03d}.dcm"),
                hounsfield,
                z,
                series_uid=series_uid,
                sop_uid=sop_uid,
                patient=patient,
                spacing=spacing,
            )
            for reader, mask in enumerate(raters):
                if mask.any():
                    rois = [(sop_uid, z, inclusion, points + top) for inclusion, points in outlines_of(mask)]
                    sessions[reader].append((f"{name}-{reader}", rois))
        write_xml(os.path.join(out, "xml", f"{patient}.xml"), series_uid, sessions)


# -- published preparations -------------------------------------------------------------------------------------------


def write_pickle(path, cases):
    """data_lidc.pickle: {key: {image [H, W] in [0, 1], masks: list of [H, W] 0/1, series_uid}}."""
    content = {
        name: {"image": _grey(planes), "masks": [mask.astype(np.float64) for mask in raters], "series_uid": patient}
        for name, patient, planes, raters in cases
    }
    with open(path, "wb") as file:
        pickle.dump(content, file)


def write_hdf5(path, cases, raters_last=True):
    """PHiSeg's file (raters last) or CCDM's: groups train, val and test with images [N, H, W] less 0.5 and labels."""
    import h5py

    with h5py.File(path, "w") as file:
        for k, split in enumerate(("train", "val", "test")):
            own = cases[k::3]
            if not own:
                continue
            labels = np.stack([raters for *_, raters in own]).astype(np.uint8)
            group = file.create_group(split)
            group["images"] = np.stack([_grey(planes) for _, _, planes, _ in own]) - 0.5
            group["labels"] = np.moveaxis(labels, 1, -1) if raters_last else labels


def write_crops(out, cases):
    """The PNG crops: SPLIT/images/PATIENT/z-Z_cK.png and SPLIT/gt/PATIENT/z-Z_cK_lR.png."""
    for k, (_, patient, planes, raters) in enumerate(cases):
        split = ("train", "val", "test")[int(patient[-3:]) % 3]
        for kind in ("images", "gt"):
            os.makedirs(os.path.join(out, split, kind, patient), exist_ok=True)
        Image.fromarray(np.round(_grey(planes) * 255).astype(np.uint8)).save(
            os.path.join(out, split, "images", patient, f"z-{k}.5_c0.png")
        )
        for reader, mask in enumerate(raters):
            Image.fromarray((mask * 255).astype(np.uint8)).save(
                os.path.join(out, split, "gt", patient, f"z-{k}.5_c0_l{reader}.png")
            )


# -- challenges -------------------------------------------------------------------------------------------------------


def _write_nifti(path, array):
    import nibabel

    os.makedirs(os.path.dirname(path), exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def write_qubiq(out, cases):
    """CASE/image.nii.gz and CASE/task01_segRR.nii.gz; several modalities along the first axis."""
    for name, _, planes, raters in cases:
        stack = np.stack([np.round(plane.T * 255) for plane in planes.values()]).astype(np.int16)
        _write_nifti(os.path.join(out, name, "image.nii.gz"), stack[0] if len(stack) == 1 else stack)
        for k, mask in enumerate(raters):
            _write_nifti(os.path.join(out, name, f"task01_seg{k + 1:02d}.nii.gz"), mask.T.astype(np.uint8))


def write_brats(out, cases):
    """Slices of the implicit-ensembles code: brats_SET_PATIENT_MODALITY_SLICE_w.nii.gz, tumour classes 1, 2 and 4 in the label."""
    for k, (name, patient, planes, raters) in enumerate(cases):
        number = int(patient[-3:])
        stem = f"brats_train_{number:03d}_{{}}_{k:03d}_w.nii.gz"
        for modality, plane in planes.items():
            _write_nifti(os.path.join(out, name, stem.format(modality)), np.round(plane.T * 255).astype(np.int16))
        classes = raters[0].astype(np.uint8)
        classes[: len(classes) // 2] *= 4
        _write_nifti(os.path.join(out, name, stem.format("seg")), classes.T)


def write_ms(out, cases):
    """Multiple-sclerosis volumes: PATIENT_VISIT_MODALITY_pp.nii.gz and PATIENT_VISIT_maskR.nii.gz, a slice for each case of a patient."""
    by_patient = {}
    for case in cases:
        by_patient.setdefault(case[1], []).append(case)
    for number, (_, own) in enumerate(sorted(by_patient.items())):
        stem = f"training{number + 1:02d}_01"
        for modality, title in zip(own[0][2], ("flair", "mprage", "t2", "pd"), strict=False):
            volume = np.stack([np.round(planes[modality].T * 255) for _, _, planes, _ in own], axis=-1)
            _write_nifti(os.path.join(out, stem, "preprocessed", f"{stem}_{title}_pp.nii.gz"), volume.astype(np.int16))
        for k in range(len(own[0][3])):
            masks = np.stack([raters[k].T for *_, raters in own], axis=-1)
            _write_nifti(os.path.join(out, stem, "masks", f"{stem}_mask{k + 1}.nii.gz"), masks.astype(np.uint8))


def write_folders(out, cases):
    """CASE/scan.jpg-like folders: an image and masks under any names."""
    for name, _, planes, raters in cases:
        os.makedirs(os.path.join(out, name), exist_ok=True)
        Image.fromarray(np.round(_grey(planes) * 255).astype(np.uint8)).save(os.path.join(out, name, "scan.png"))
        for k, mask in enumerate(raters):
            Image.fromarray((mask * 255).astype(np.uint8)).save(os.path.join(out, name, f"expert{k}_mask.png"))


def write(form, out, cases):
    """Write `cases` into the folder `out` in one of the formats of make_phantom.py."""
    {
        "lidc": write_lidc,
        "pickle": lambda out, cases: write_pickle(os.path.join(out, "data_lidc.pickle"), cases),
        "hdf5": lambda out, cases: write_hdf5(os.path.join(out, "data_lidc.hdf5"), cases),
        "crops": write_crops,
        "qubiq": write_qubiq,
        "brats": write_brats,
        "ms-mri": write_ms,
        "folders": write_folders,
    }[form](out, cases)
