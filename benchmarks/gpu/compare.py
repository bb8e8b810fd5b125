"""Differences between tensors and between nested states of tensors."""

import torch


def relative_error(out, reference):
    """||out - reference|| / ||reference||, in float64 on the CPU; infinite if `out` is not finite."""
    out, reference = out.detach().double().cpu(), reference.detach().double().cpu()
    if not torch.isfinite(out).all():
        return float("inf")
    return float((out - reference).norm() / reference.norm().clamp(min=1e-300))


def tensors_of(state, prefix=""):
    """{path: tensor} of a nested state of dicts and lists."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    if isinstance(state, (list, tuple)):
        state = dict(enumerate(state))
    parts = state.items() if isinstance(state, dict) else ()
    return {path: tensor for key, part in parts for path, tensor in tensors_of(part, f"{prefix}.{key}").items()}


def equal_bits(a, b):
    """Whether the tensors of two nested states are bit-identical."""
    a, b = tensors_of(a), tensors_of(b)
    return a.keys() == b.keys() and all(torch.equal(a[path].cpu(), b[path].cpu()) for path in a)


def difference(a, b):
    """{"equal_bits", "relative"}; the relative difference is over all tensors of a nested state together."""
    left, right = tensors_of(a), tensors_of(b)
    flat = [torch.cat([state[path].detach().double().cpu().flatten() for path in right]) for state in (left, right)]
    return {"equal_bits": equal_bits(a, b), "relative": relative_error(*flat)}


def equal_pixels(a, b):
    """The share of pixels at which the masks of two sets of soft samples are equal."""
    return float(((a.detach().cpu() > 0.5) == (b.detach().cpu() > 0.5)).double().mean())
