"""The settings of all stages: sizes, device, folders."""

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """The sizes that the stages compute with."""

    image_size: int = 128  # pixels
    num_channels: int = 128  # of the U-Net's first level
    masks: int = 128  # in flight
    calls: int = 20  # network calls for a mask
    train_batch: int = 20  # masks per training step
    train_steps: int = 20  # timed training steps
    script_steps: int = 60  # optimizer steps of a training by the script
    repeats: int = 20  # of a short measurement; the median is reported
    rounds: int = 3  # of a long one
    product: int = 8192  # side of the square matrix product
    copied: int = 2**32  # bytes of the copy
    conv_batch: int = 64  # images of a convolution
    shrink: int = 1  # divides the sides and channels of the convolutions
    cases: int = 48  # of the end-to-end run
    masks_per_case: int = 4


DRY = Sizes(
    image_size=32,
    num_channels=32,
    masks=2,
    calls=2,
    train_batch=2,
    train_steps=2,
    script_steps=2,
    repeats=2,
    rounds=2,
    product=128,
    copied=2**20,
    conv_batch=2,
    shrink=16,
    cases=2,
    masks_per_case=2,
)


@dataclass(frozen=True)
class Settings:
    """The settings of a stage.

    out       folder of the results
    work      folder for everything else: cases, runs, compiled kernels
    dry_run   small sizes on the CPU, without compilation
    gpus      number of visible cards
    compiled  names in compilation.JOBS whose compilation succeeded
    """

    out: str
    work: str
    dry_run: bool = False
    gpus: int = 0
    compiled: tuple[str, ...] = ()
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def device(self):
        """The device of a stage; does not query torch, which could not be forked afterwards."""
        return "cpu" if self.dry_run else "cuda:0"

    @property
    def amp(self):
        """The precision for timing; on a CPU, the backward pass in bfloat16 is several times slower."""
        return "none" if self.dry_run else "bf16"

    @property
    def precision(self):
        """The same precision as named in a card's rates."""
        return "float32" if self.amp == "none" else self.amp

    def folder(self, *names):
        """A path below `work`."""
        return os.path.join(self.work, *names)
