"""The exponential moving average of a module's weights."""

from contextlib import contextmanager

import torch


class EMA:
    """Exponential moving averages of a module's weights, one per rate: `weights[rate]` is a state dict."""

    def __init__(self, module, rates):
        self.live = list(module.state_dict().values())  # these follow the module's weights
        self.weights = {str(rate): {k: v.clone() for k, v in module.state_dict().items()} for rate in rates}

    @torch.no_grad()
    def update(self, step):
        """Take in the live weights after `step` earlier updates. The rate warms up, so that short runs are averaged too."""
        for rate, weights in self.weights.items():
            rate = min(float(rate), (1 + step) / (10 + step))
            torch._foreach_lerp_(list(weights.values()), self.live, 1 - rate)

    @contextmanager
    def applied(self):
        """For as long as the context lasts, the module has the averages of the first rate, and these its weights."""
        averages = list(next(iter(self.weights.values())).values())
        self._swap(averages)
        try:
            yield
        finally:
            self._swap(averages)

    @torch.no_grad()
    def _swap(self, averages):
        for live, average in zip(self.live, averages):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def load(self, live, averages):
        """Start from stored averages, and from the live weights for a rate or a name that was not averaged."""
        for rate, weights in self.weights.items():
            stored = {**live, **averages.get(rate, {})}
            for name in weights.keys() & stored.keys():
                weights[name].copy_(stored[name])
