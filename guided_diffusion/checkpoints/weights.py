"""Stored weights and optimizer states into modules that they fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from .format import Weights, is_tensor
from .hints import likely_flag


def load_weights(module: nn.Module, weights: Weights, source: str, prefix: str = "") -> None:
    """Copy `weights` into the parameters of `module` whose names start with `prefix`, all of them.

    CheckpointError: they do not fit, as check_weights finds.
    """
    check_weights(module, weights, source, prefix)
    own = {name: weights[name] for name in module.state_dict() if name.startswith(prefix)}
    module.load_state_dict(own, strict=False)


def check_weights(module: nn.Module, weights: Weights, source: str, prefix: str = "") -> None:
    """Check `weights` against the parameters of `module` whose names start with `prefix`; nothing is copied.

    CheckpointError: a name, a shape or a kind of number differs; the message names the first ones and the flag that is
    likely wrong.
    """
    expected = {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}
    different = [name for name, value in expected.items() if name in weights and not _alike(weights[name], value)]
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name.startswith(prefix) and name not in expected]
    if different or missing or surplus:
        reasons = [f"{name} is {_size(weights[name])}, not {_size(expected[name])}" for name in different]
        reasons += [f"{name} is not in it" for name in missing] + [f"{name} is not in the model" for name in surplus]
        first = (different + missing + surplus)[0]
        hint = likely_flag(first, weights.get(first), expected.get(first))
        raise CheckpointError(f"{source}: does not fit the model: {'; '.join(reasons[:3])}. Likely: {hint}")


def _alike(stored: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a stored tensor has the shape of a module's own, and is of whole numbers or fractions as that is."""
    return stored.shape == own.shape and stored.is_floating_point() == own.is_floating_point()


def _size(tensor: torch.Tensor) -> str:
    """The shape of a tensor, with the type where that is unusual."""
    size = "x".join(map(str, tensor.shape))
    return size if tensor.is_floating_point() else f"{size} {str(tensor.dtype).removeprefix('torch.')}"


def check_optimizer(state: Mapping[str, Any], parameters: Sequence[torch.Tensor], source: str) -> None:
    """CheckpointError: an optimizer's stored state does not fit the first of the `parameters`, to which it belongs."""
    entries = state.get("state") if isinstance(state, dict) else None
    if isinstance(entries, dict) and all(_fits(index, entry, parameters) for index, entry in entries.items()):
        return
    raise CheckpointError(
        f"{source}: its optimizer does not fit the model; move optsavedmodel*.pt away to start it afresh"
    )


def _fits(index: object, entry: object, parameters: Sequence[torch.Tensor]) -> bool:
    """Whether an entry of an optimizer's state {index: entry} is that of the parameter of the index."""
    if not (isinstance(index, int) and 0 <= index < len(parameters) and isinstance(entry, dict)):
        return False
    moments = [entry.get(name) for name in ("exp_avg", "exp_avg_sq")]
    step = entry.get("step")
    return all(is_tensor(moment) and moment.shape == parameters[index].shape for moment in moments) and (
        isinstance(step, (int, float)) or (is_tensor(step) and step.numel() == 1)
    )


def check_schedule_sampler(state: Weights, expected: Weights, source: str) -> None:
    """CheckpointError: a sampler's stored state {name: tensor} has other names or shapes than the `expected` one."""
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in expected.items()}:
        raise CheckpointError(f"{source}: its history of losses is not that of --schedule_sampler; use another one")
