"""The checkpoint format, and validation of its parts. A checkpoint is self-describing and safe to load.

A checkpoint is a dict of plain tensors and JSON-like values, which torch.load(weights_only=True) can open:

    format, version      identify the file format
    step, samples        optimizer steps done, and masks drawn from the data by all processes
    processes, data      number of processes, and hash of the training cases
    reading              version of the rules by which the cases were read. Missing in older checkpoints, which are of 1
    threads              CPU threads per process; None on a GPU. Missing in older checkpoints
    flags                every flag of the run, by name
    weights              the segmenter: model.*, prior.*, posterior.*
    ema                  {rate: moving average of the weights}
    optimizer, schedule_sampler, scaler
    random               the seed; it and the position in the data determine the randomness of each step
    best                 {settings, step, score} of the best validation so far; None if there was none
    bad_steps            [steps skipped because of a non-finite loss or gradient, how many of them at the end in a row]
    written_by           {version, torch}: the versions of this program and of torch. Missing in older checkpoints

Bare state dicts of the published code, of the implicit-ensembles code, and model folders can be read too.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeGuard

import torch

from ..flags.configs import Flags
from ..flags.retired import current_flags
from ..system.versions import is_written_by, written_by

FORMAT, VERSION = "ambiguous-segmentation-diffusion", 1
NEWEST, BEST, MANIFEST = "savedmodel.pt", "bestmodel.pt", "manifest.json"
NUMBERED = re.compile(r"savedmodel(\d+)\.pt$")

Weights = dict[str, torch.Tensor]  # a state dict


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory; its fields are the keys described above. Keys missing in a file get the default.

    is_published  from the published code: it has only the weights of the U-Net, and no flags
    exported      from a model folder: which weights of its checkpoint it has; nothing else is left to resume
    written_by    of the file that it was read from; `content` has the present versions instead
    """

    flags: Flags = field(default_factory=dict)
    processes: int | None = None
    threads: int | None = None
    data: str | None = None
    reading: int = 1
    random: dict[str, Any] = field(default_factory=dict)
    step: int
    samples: int | None = None
    weights: Weights
    ema: dict[str, Weights] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    schedule_sampler: Weights | None = None
    best: dict[str, Any] | None = None
    bad_steps: tuple[int, int] = (0, 0)
    written_by: dict[str, str] = field(default_factory=dict)
    is_published: bool = False
    exported: Literal["ema", "raw"] | None = None

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Checkpoint":
        """The checkpoint of a file's content, whose parts must be valid."""
        parts = {f.name: content[f.name] for f in fields(cls) if f.name in PARTS and f.name in content}
        counts = tuple(parts.get("bad_steps", (0, 0)))
        return cls(**{**parts, "flags": current_flags(parts.get("flags", {})), "bad_steps": counts})

    def content(self) -> dict[str, Any]:
        """The content to write to a file: plain tensors and JSON-like values."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name in PARTS}
        parts = {name: part for name, part in parts.items() if part is not None or name in MAY_BE_NONE}
        own = {"bad_steps": list(self.bad_steps), "written_by": written_by()}
        return {"format": FORMAT, "version": VERSION, **parts, **own}

    @property
    def prefix(self) -> str:
        """The prefix of the segmenter's weights that the checkpoint contains."""
        network_only = all(name.startswith("model.") for name in self.weights)
        return "model." if self.is_published or (self.exported and network_only) else ""

    def missing_to_resume(self) -> list[str]:
        """The names of missing parts that are required to resume; sampling may still work."""
        if self.is_published or self.exported:
            return []
        return [name for name in TO_RESUME if getattr(self, name) is None]


@dataclass(frozen=True)
class RunInfo:
    """Properties of the run that are stored in its checkpoints, besides the run's state."""

    flags: Flags
    processes: int
    threads: int | None
    data: str | None
    seed: int
    reading: int


# -- validation, so that a damaged checkpoint is reported when it is loaded --------------------------------------------

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether a value is a plain CPU tensor."""
    if not isinstance(value, torch.Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and value.dtype in DTYPES


def is_weights(value: object) -> TypeGuard[Weights]:
    """Whether a value is a state dict, {name: plain CPU tensor}."""
    return isinstance(value, dict) and all(isinstance(k, str) and is_tensor(v) for k, v in value.items())


def _is_plain(value: object, depth: int = 8) -> bool:
    """Whether a value is JSON-like, with a nesting depth of at most `depth`."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and value >= least


def _is_plain_dict(value: object) -> bool:
    return isinstance(value, dict) and _is_plain(value)


def _is_scaler(value: object) -> bool:
    """Whether a value is the state of a GradScaler, which is empty if the scaler is disabled."""
    if not isinstance(value, dict) or not value:
        return value == {}
    names = ("scale", "growth_factor", "backoff_factor")
    return (
        _is_plain(value)
        and all(isinstance(value.get(n), float) and 0 < value[n] < math.inf for n in names)
        and _is_count(value.get("growth_interval"), 1)
        and _is_count(value.get("_growth_tracker"))
    )


def _is_best(value: object) -> bool:
    if not isinstance(value, dict):
        return value is None
    right = _is_plain(value) and isinstance(value.get("settings"), dict)
    return right and _is_count(value.get("step")) and isinstance(value.get("score"), float)


def _is_pair_of_counts(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


PARTS: dict[str, Callable[[object], bool]] = {
    "step": _is_count,
    "samples": _is_count,
    "processes": lambda value: _is_count(value, 1),
    "threads": lambda value: value is None or _is_count(value, 1),
    "data": lambda value: value is None or isinstance(value, str),
    "reading": lambda value: _is_count(value, 1),
    "flags": _is_plain_dict,
    "random": _is_plain_dict,
    "weights": is_weights,
    "ema": lambda value: isinstance(value, dict) and all(map(is_weights, value.values())),
    "optimizer": lambda value: value is None or isinstance(value, dict),
    "schedule_sampler": is_weights,
    "scaler": _is_scaler,
    "best": _is_best,
    "bad_steps": _is_pair_of_counts,
    "written_by": is_written_by,
}
TO_SAMPLE = ("step", "flags", "weights", "ema")
TO_RESUME = (*TO_SAMPLE, "samples", "optimizer", "schedule_sampler", "scaler")
MAY_BE_NONE = ("threads", "data", "best")  # None has a meaning
