"""Which precision suits this machine."""

from typing import Any

import torch

from ..errors import ConfigError
from .device import ComputeConfig


def advise_on_precision(config: ComputeConfig, device: torch.device | str) -> list[str]:
    """Lines to report. ConfigError: bfloat16 on a CPU without instructions for it, where it is slower than float32."""
    if torch.device(device).type != "cpu":
        return []
    if config.amp == "bf16" and not has_bf16():
        raise ConfigError("--amp bf16: this processor has no bfloat16 (AMX or AVX512-BF16) and is faster without --amp")
    if config.amp == "none" and has_bf16():
        return ["this processor has bfloat16: --amp bf16 may be faster"]
    return []


def has_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16; True if PyTorch does not report it."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities or any(found for name, found in capabilities.items() if name.endswith("bf16"))
