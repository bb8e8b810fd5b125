"""The patients of DICOM series, without the IDs that their files contain.

LIDC-IDRI-NNNN is a public pseudonym and stays. Any other ID is replaced by patient001, patient002, ... in the order of
its hash. The series of a pseudonym are stored, the IDs are not.
"""

import hashlib
import re
from collections.abc import Mapping

PUBLIC = re.compile(r"LIDC-IDRI-\d{4}")
PSEUDONYM = re.compile(r"patient(\d+)")


def patients_of_series(
    ids: Mapping[str, str], files: Mapping[str, str], known: Mapping[str, str], keep_ids: bool = False
) -> dict[str, str]:
    """{series UID: patient}: LIDC-IDRI-NNNN from the ID or the file's path; otherwise a pseudonym.

    ids       {series UID: PatientID}; empty: unknown, a patient for itself
    files     {series UID: path of one of its files}
    known     {series UID: patient} of earlier runs, which stay
    keep_ids  return the IDs instead; the UID of the series, where it is empty
    """
    if keep_ids:
        return {uid: patient_id or uid for uid, patient_id in ids.items()}
    patients: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for uid, patient_id in sorted(ids.items()):
        groups.setdefault(patient_id.strip() or uid, []).append(uid)
        if match := PUBLIC.fullmatch(patient_id.strip()) or PUBLIC.search(files[uid]):
            patients[uid] = match[0]
    last = max((int(match[1]) for match in map(PSEUDONYM.fullmatch, known.values()) if match), default=0)
    for patient_id in sorted(groups, key=_hash):
        others = [uid for uid in groups[patient_id] if uid not in patients]
        public = {patients[uid] for uid in groups[patient_id] if uid in patients}
        before = [known[uid] for uid in others if uid in known]
        own = [*(public if len(public) == 1 else ()), *before]  # of several public IDs, none is known to be theirs
        if others and not own:
            last += 1
        patients |= dict.fromkeys(others, [*own, f"patient{last:03d}"][0])
    return patients


def _hash(patient_id: str) -> str:
    return hashlib.sha256(patient_id.encode(errors="surrogatepass")).hexdigest()
