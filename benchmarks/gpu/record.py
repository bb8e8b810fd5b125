"""What a stage has measured so far, in a file that is whole at any time."""

import contextlib
import json
import math
import os
import sys
import time
import traceback

import torch


class CheckFailed(AssertionError):
    """A figure is outside its stated limit."""


def require(condition, message):
    """CheckFailed with `message`, unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


class Record:
    """The figures of a stage, written to `path` after each addition as {"figures", "errors"}.

    So a stage that is stopped loses none.
    """

    def __init__(self, path):
        self.path, self.figures, self.errors = path, {}, {}
        self._write()

    def add(self, **figures):
        """Add figures: numbers, strings, and lists and dicts of these."""
        self.figures |= plain(figures)
        self._write()

    @contextlib.contextmanager
    def part(self, name):
        """A group of figures: yields a function that adds to it.

        An exception ends the part alone: it becomes an entry of `errors`, and the stage continues with its next part.
        """
        report = self.figures.setdefault(name, {})
        start = time.perf_counter()

        def add(**figures):
            report.update(plain(figures))
            self._write()

        try:
            yield add
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            self.errors[name] = "".join(traceback.format_exception_only(error)).strip()[-600:]
        add(seconds=round(time.perf_counter() - start, 2))

    def _write(self):
        text = json.dumps({"figures": self.figures, "errors": self.errors})
        with open(f"{self.path}.part", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{self.path}.part", self.path)


def plain(value):
    """`value` as JSON has it: a tensor of one element as its number, and a number that is not finite as text."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
