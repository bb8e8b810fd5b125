"""segmentation_train.py with plain gradient descent: AdamW magnifies rounding where gradients vanish."""

import pathlib
import runpy

import torch


class PlainDescent(torch.optim.Optimizer):
    def __init__(self, parameters, lr, weight_decay, fused):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"])


torch.optim.AdamW = PlainDescent
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "scripts" / "segmentation_train.py"), run_name="__main__")
