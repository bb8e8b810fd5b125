"""Loads weights into modules, and checks that weights and optimizer states fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from .format import Weights, is_tensor
from .hints import likely_flag


def load_weights(module: nn.Module, weights: Weights, source: str, prefix: str = "") -> None:
    """Copy `weights` into all parameters of `module` whose names start with `prefix`.

    CheckpointError: they do not fit, see check_weights.
    """
    check_weights(module, weights, source, prefix)
    own = {name: weights[name] for name in module.state_dict() if name.startswith(prefix)}
    module.load_state_dict(own, strict=False)


def check_weights(module: nn.Module, weights: Weights, source: str, prefix: str = "") -> None:
    """Check `weights` against the parameters of `module` whose names start with `prefix`, without copying.

    CheckpointError: names, shapes or kinds of dtype differ; the message lists the first differences and the flag that
    most likely causes them.
    """
    expected = {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}
    different = [name for name, value in expected.items() if name in weights and not _alike(weights[name], value)]
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name.startswith(prefix) and name not in expected]
    if different or missing or surplus:
        reasons = [f"{name} is {_size(weights[name])}, not {_size(expected[name])}" for name in different]
        reasons += [f"{name} is missing" for name in missing] + [f"{name} is not in the model" for name in surplus]
        first = (different + missing + surplus)[0]
        hint = likely_flag(first, weights.get(first), expected.get(first))
        raise CheckpointError(f"{source}: does not fit the model: {'; '.join(reasons[:3])}. Likely cause: {hint}")


def _alike(stored: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a stored tensor and the module's agree in shape, and in being floating-point."""
    return stored.shape == own.shape and stored.is_floating_point() == own.is_floating_point()


def _size(tensor: torch.Tensor) -> str:
    """The shape of a tensor, with the dtype if it is not floating-point."""
    size = "x".join(map(str, tensor.shape))
    return size if tensor.is_floating_point() else f"{size} {str(tensor.dtype).removeprefix('torch.')}"


def check_optimizer(state: Mapping[str, Any], parameters: Sequence[torch.Tensor], source: str) -> None:
    """CheckpointError: a stored optimizer state does not fit `parameters`, of which it may cover only the first."""
    entries = state.get("state") if isinstance(state, dict) else None
    if isinstance(entries, dict) and all(_fits(index, entry, parameters) for index, entry in entries.items()):
        return
    raise CheckpointError(
        f"{source}: its optimizer state does not fit the model; move optsavedmodel*.pt out of the folder to start with "
        "a new optimizer"
    )


def _fits(index: object, entry: object, parameters: Sequence[torch.Tensor]) -> bool:
    """Whether an entry of an optimizer's state {index: entry} fits the parameter with this index."""
    if not (isinstance(index, int) and 0 <= index < len(parameters) and isinstance(entry, dict)):
        return False
    moments = [entry.get(name) for name in ("exp_avg", "exp_avg_sq")]
    step = entry.get("step")
    return all(is_tensor(moment) and moment.shape == parameters[index].shape for moment in moments) and (
        isinstance(step, (int, float)) or (is_tensor(step) and step.numel() == 1)
    )


def check_schedule_sampler(state: Weights, expected: Weights, source: str) -> None:
    """CheckpointError: a sampler's stored state {name: tensor} differs in names or shapes from the `expected` one."""
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in expected.items()}:
        raise CheckpointError(f"{source}: its loss history does not fit --schedule_sampler; use another checkpoint")
