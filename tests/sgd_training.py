"""segmentation_train.py with plain gradient descent: AdamW magnifies rounding where gradients vanish."""

import sys

import torch
from helpers import load_script


class PlainDescent(torch.optim.Optimizer):
    def __init__(self, parameters, lr, weight_decay, fused):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"])


def main(*arguments):
    """Run the script in a process that does nothing else."""
    torch.optim.AdamW = PlainDescent
    load_script("segmentation_train").main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
