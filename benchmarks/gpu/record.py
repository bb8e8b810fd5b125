"""The results of a stage so far, in a file that is complete at any time."""

import contextlib
import json
import math
import os
import sys
import time
import traceback

import torch


class CheckFailed(AssertionError):
    """A result is outside its limit."""


def require(condition, message):
    """Raises CheckFailed with `message` unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


class Record:
    """The results of a stage, written to `path` after each addition as {"figures", "errors"}.

    A stage that is stopped thus loses no results.
    """

    def __init__(self, path):
        self.path, self.figures, self.errors = path, {}, {}
        self._write()

    def add(self, **figures):
        """Add results: numbers, strings, and lists and dicts of these."""
        self.figures |= plain(figures)
        self._write()

    @contextlib.contextmanager
    def part(self, name):
        """Context for a group of results; yields a function that adds to it.

        An exception ends only this part: it is added to `errors`, and the stage continues with its next part.
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
    """Convert `value` for JSON: a tensor of one element to a number, and a non-finite number to text."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
