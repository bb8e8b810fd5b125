"""Phantom cases to be written in other file formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PhantomCase:
    """A phantom with a case name and a patient."""

    name: str
    patient: str
    planes: Mapping[str, np.ndarray]  # {modality: [H, W] in [0, 1]}
    raters: np.ndarray  # [R, H, W] bool

    @property
    def grey(self) -> np.ndarray:
        """The plane of the first modality."""
        return next(iter(self.planes.values()))


def by_patient(cases: Sequence[PhantomCase]) -> dict[str, list[PhantomCase]]:
    """{patient: cases}, sorted by patient."""
    own: dict[str, list[PhantomCase]] = {patient: [] for patient in sorted({case.patient for case in cases})}
    for case in cases:
        own[case.patient].append(case)
    return own
