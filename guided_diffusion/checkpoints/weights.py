"""Stored weights and optimizer states into modules that they fit."""

from ..errors import CheckpointError
from .format import is_tensor
from .hints import likely_flag


def load_weights(module, weights, source, prefix=""):
    """Copy `weights` into the parameters of `module` whose names start with `prefix`, all of them.

    CheckpointError: a name or a shape differs; the message names the first ones and the flag that is likely wrong.
    """
    wanted = {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}
    shapes = [name for name, value in wanted.items() if name in weights and weights[name].shape != value.shape]
    missing = [name for name in wanted if name not in weights]
    surplus = [name for name in weights if name.startswith(prefix) and name not in wanted]
    if shapes or missing or surplus:
        told = [f"{name} is {_size(weights[name])}, not {_size(wanted[name])}" for name in shapes]
        told += [f"{name} is not in it" for name in missing] + [f"{name} is not in the model" for name in surplus]
        first = (shapes + missing + surplus)[0]
        hint = likely_flag(first, weights.get(first), wanted.get(first))
        raise CheckpointError(f"{source}: does not fit the model: {'; '.join(told[:3])}. Likely: {hint}")
    module.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def check_optimizer(state, parameters, source):
    """CheckpointError: an optimizer's stored state does not fit the first of the `parameters`, to which it belongs."""
    entries = state.get("state") if isinstance(state, dict) else None
    fits = isinstance(entries, dict) and all(
        isinstance(index, int)
        and 0 <= index < len(parameters)
        and isinstance(entry, dict)
        and all(
            is_tensor(entry.get(name)) and entry[name].shape == parameters[index].shape
            for name in ("exp_avg", "exp_avg_sq")
        )
        and (isinstance(step := entry.get("step"), (int, float)) or (is_tensor(step) and step.numel() == 1))
        for index, entry in entries.items()
    )
    if not fits:
        raise CheckpointError(
            f"{source}: its optimizer does not fit the model; move optsavedmodel*.pt away to start it afresh"
        )


def check_schedule_sampler(state, wanted, source):
    """CheckpointError: a sampler's stored state {name: tensor} has not the names and shapes of the `wanted` one."""
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in wanted.items()}:
        raise CheckpointError(f"{source}: its history of losses is not that of --schedule_sampler; use another one")


def _size(tensor):
    return "x".join(map(str, tensor.shape))
