"""Exponential moving averages (EMA) of a module's weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..dist_util import like, local, reshard_all


class EMA:
    """Exponential moving averages of a module's weights: `weights[name]` is a state dict, sharded like the module.

    rates  {name: rate}; sampling uses the first
    """

    def __init__(self, module: nn.Module, rates: Mapping[str, float]) -> None:
        self.module, self.rates = module, rates
        self.live = list(module.state_dict().values())  # share memory with the module's weights
        self.weights = {name: {k: v.clone() for k, v in module.state_dict().items()} for name in rates}

    @torch.no_grad()
    def update(self, step: int, moved: torch.Tensor | bool = True) -> None:
        """Update the averages after `step` earlier updates. The rate warms up, so that short runs are averaged too.

        moved  False: skip the update; a bool, or a tensor [] on the weights' device
        """
        live = list(map(local, self.live))
        moved = torch.as_tensor(moved, dtype=torch.float32, device=live[0].device)
        for name, weights in self.weights.items():
            averages = list(map(local, weights.values()))
            share = (1 - min(self.rates[name], (1 + step) / (10 + step))) * moved
            if share.device.type == "cpu":  # one pass instead of three; on a GPU, `item` would wait
                torch._foreach_lerp_(averages, live, share.item())
                continue
            change = torch._foreach_sub(live, averages)
            torch._foreach_mul_(change, share)
            torch._foreach_add_(averages, change)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context that swaps the module's weights with the first averages."""
        averages = list(next(iter(self.weights.values())).values())
        self._swap(averages)
        try:
            yield
        finally:
            reshard_all(self.module)  # frees unsharded copies, which hold the averages
            self._swap(averages)

    @torch.no_grad()
    def _swap(self, averages: Sequence[torch.Tensor]) -> None:
        for live, average in zip(map(local, self.live), map(local, averages), strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def load(self, live: Mapping[str, torch.Tensor], averages: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Load stored averages; averages that are not stored start from the live weights."""
        for name, weights in self.weights.items():
            stored = {**live, **averages.get(name, {})}
            for key in weights.keys() & stored.keys():
                weights[key].copy_(like(stored[key], weights[key]))
