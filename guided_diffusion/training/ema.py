"""The exponential moving average of a module's weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..dist_util import like, local, reshard_all


class EMA:
    """Exponential moving averages of a module's weights: `weights[name]` is a state dict, sharded like the module.

    rates  {name: rate}, the one to sample with first
    """

    def __init__(self, module: nn.Module, rates: Mapping[str, float]) -> None:
        self.module, self.rates = module, rates
        self.live = list(module.state_dict().values())  # these follow the module's weights
        self.weights = {name: {k: v.clone() for k, v in module.state_dict().items()} for name in rates}

    @torch.no_grad()
    def update(self, step: int, moved: torch.Tensor | bool = True) -> None:
        """Take in the live weights after `step` earlier updates. The rate warms up, so that short runs are averaged.

        moved  whether there is anything to take in; a tensor [] on the weights' device, or a bool
        """
        live = list(map(local, self.live))
        moved = torch.as_tensor(moved, dtype=torch.float32, device=live[0].device)
        for name, weights in self.weights.items():
            averages = list(map(local, weights.values()))
            change = torch._foreach_sub(live, averages)
            torch._foreach_mul_(change, (1 - min(self.rates[name], (1 + step) / (10 + step))) * moved)
            torch._foreach_add_(averages, change)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """For as long as the context lasts, the module has the first averages, and these its weights."""
        averages = list(next(iter(self.weights.values())).values())
        self._swap(averages)
        try:
            yield
        finally:
            reshard_all(self.module)  # a sharded one may hold on to whole weights, which are averages now
            self._swap(averages)

    @torch.no_grad()
    def _swap(self, averages: Sequence[torch.Tensor]) -> None:
        for live, average in zip(map(local, self.live), map(local, averages), strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def load(self, live: Mapping[str, torch.Tensor], averages: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Start from stored averages, and from the live weights for a name that was not averaged."""
        for name, weights in self.weights.items():
            stored = {**live, **averages.get(name, {})}
            for key in weights.keys() & stored.keys():
                weights[key].copy_(like(stored[key], weights[key]))
