"""Runs stages in separate processes with time limits, and writes a line about each as soon as it ends.

Processes are forked from this one, which has imported torch but never initialises CUDA: stages start without repeating
the imports and initialise CUDA on their own.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import rates
from .record import Record

GRACE = 3  # seconds between SIGTERM and SIGKILL
MARGIN = 4  # seconds reserved at the end of the run
TAIL = 20  # lines of output that are kept of a failed stage


@dataclass(frozen=True)
class Stage:
    """A stage and its limits.

    name     of the module gpu.stages.NAME, whose run(record, settings) is called
    seconds  time limit
    least    seconds that must be left to start it
    timed    it measures time on the device and starts after compilation has ended
    run      called instead of the module's
    """

    name: str
    seconds: float
    least: float = 5
    timed: bool = False
    run: Callable | None = None

    def __call__(self, record, settings):
        run = self.run or importlib.import_module(f"gpu.stages.{self.name}").run
        run(record, settings)


def status_of(code):
    """The status of a stage from its process's exit code; None: it was stopped at its limit."""
    if code is None:
        return "timeout"
    return "failed" if code else "ok"


# -- one process ------------------------------------------------------------------------------------------------------


class Child:
    """function(record, settings) in a forked process that leads a process group.

    Its output and its results go to two files.
    """

    def __init__(self, name, function, settings, figures):
        self.name, self.figures = name, figures
        self.log = settings.folder(f"{name}.log")
        self.began, self.code, self.cpu_seconds = time.monotonic(), None, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self._enter()
                record = Record(figures)
                function(record, settings)
                status = 1 if record.errors else 0
            except BaseException:  # never return into the parent's code
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)

    def _enter(self):
        os.setpgid(0, 0)
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.enable(file=sys.stderr)
        faulthandler.register(signal.SIGTERM, file=sys.stderr, chain=True)  # its position when its time was up

    def wait(self, seconds):
        """The exit status, negative for a signal; None: it is still running after `seconds`."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.cpu_seconds = round(used.ru_utime + used.ru_stime, 1)
                self._signal(signal.SIGKILL)  # remaining child processes
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                break
            else:
                time.sleep(0.02)
        return self.code

    def stop(self):
        """End it and the processes that it started."""
        if self.code is None:
            self._signal(signal.SIGTERM)
        if self.wait(GRACE) is None:
            self._signal(signal.SIGKILL)
            self.wait(GRACE)

    def _signal(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def line(self, status):
        """Its line in stages.jsonl."""
        seconds = {"seconds": round(time.monotonic() - self.began, 1), "cpu_seconds": self.cpu_seconds}
        report = {"stage": self.name, "status": status, **seconds, "figures": {}, "errors": {}}
        with contextlib.suppress(OSError, ValueError), open(self.figures, encoding="utf-8") as file:
            report |= json.load(file)
        if self.code and self.code < 0 and status == "failed":
            report["errors"]["process"] = f"ended by {signal.Signals(-self.code).name}"
        if status != "ok":
            report["stderr"] = self.output()[-TAIL:]
        return report

    def output(self):
        """The lines of its output."""
        with contextlib.suppress(OSError), open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
        return []


# -- all stages -------------------------------------------------------------------------------------------------------


class Runner:
    """Runs stages one after another, within `seconds` from now.

    settings     Settings
    compilation  {name: function(record, settings)} that run in the background from the start and are joined before the
                 first timed stage
    join_by      seconds from the start after which they are stopped
    """

    def __init__(self, settings, seconds, compilation=None, join_by=0.0):
        self.settings, self.start, self.end = settings, time.monotonic(), time.monotonic() + seconds
        self.join_by = self.start + join_by
        self.lines, self.children = [], []
        figures = settings.folder
        self.compiling = [
            self._fork(f"compile_{name}", job, figures(f"compile_{name}.json"))
            for name, job in (compilation or {}).items()
        ]

    def _fork(self, name, function, figures):
        child = Child(name, function, self.settings, figures)
        self.children.append(child)
        return child

    def run(self, stages):
        """Run all stages; returns whether all succeeded."""
        try:
            for stage in stages:
                if stage.timed and self.compiling:
                    self.join()
                self.run_stage(stage)
            if self.compiling:
                self.join()
        finally:
            for child in self.children:
                child.stop()
        return all(line["status"] == "ok" for line in self.lines)

    def run_stage(self, stage):
        """Run one stage, or skip it if too little time is left; its line is written in either case."""
        left = self.end - MARGIN - time.monotonic()
        if left < stage.least:
            self.write_line(
                {
                    "stage": stage.name,
                    "status": "skipped",
                    "seconds": 0,
                    "figures": {},
                    "errors": {"time": f"{left:.0f} s left"},
                }
            )
            return
        current = os.path.join(self.settings.out, "current.json")
        child = self._fork(stage.name, stage, current)
        status = "interrupted"
        try:
            code = child.wait(min(stage.seconds, left))
            status = status_of(code)
        finally:
            self.finish(child, status)
            with contextlib.suppress(OSError):
                os.unlink(current)

    def join(self):
        """Wait for compilation, stop jobs that take too long, and pass the compiled names to later stages."""
        figures, errors, text = {}, {}, []
        for child in self.compiling:
            code = child.wait(max(0.0, min(self.join_by, self.end - MARGIN) - time.monotonic()))
            line = child.line(status_of(code))
            child.stop()
            self._release(child)
            figures |= line["figures"]
            errors |= line["errors"]
            if line["status"] != "ok":
                errors.setdefault(child.name, line["status"])
                text += line["stderr"]
        self.compiling = []
        done = tuple(name for name, report in figures.items() if isinstance(report, dict) and report.get("done"))
        self.settings = replace(self.settings, compiled=done)
        seconds = round(time.monotonic() - self.start, 1)
        more = {"stderr": text[-3 * TAIL :]} if errors else {}
        self.write_line(
            {
                "stage": "compilation",
                "status": "failed" if errors else "ok",
                "seconds": seconds,
                "figures": figures,
                "errors": errors,
                **more,
            }
        )

    def finish(self, child, status):
        line = child.line(status)  # before stopping it, which takes time
        if status not in ("ok", "failed"):
            child.stop()
            line["stderr"] = child.output()[-TAIL:]
        self._release(child)
        self.write_line(line)

    def _release(self, child):
        self.children.remove(child)
        output = os.path.join(self.settings.out, "output.txt")
        with contextlib.suppress(OSError), open(child.log, "rb") as source, open(output, "ab") as target:
            target.write(f"==== {child.name}\n".encode())
            shutil.copyfileobj(source, target)

    def write_line(self, line):
        """Write a stage's line, and the file of all stages so far."""
        self.lines.append(line)
        with open(os.path.join(self.settings.out, "stages.jsonl"), "a", encoding="utf-8") as file:
            file.write(
                json.dumps({**line, "card": rates.card(self.settings.out) or line["figures"].get("card")}) + "\n"
            )
        self.write_summary()
        print(
            f"{line['stage']:16s} {line['status']:8s} {line['seconds']:6.1f} s  {'; '.join(map(str, line['errors']))}",
            flush=True,
        )

    def write_summary(self):
        """gpu_check.json: the card, the versions, and each stage's line by name."""
        report = {line["stage"]: line for line in self.lines}
        versions = report.get("versions", {}).get("figures", {})
        summary = {
            "card": versions.get("card"),
            "torch": versions.get("torch"),
            "dry_run": self.settings.dry_run,
            "seconds": round(time.monotonic() - self.start, 1),
            "nominal": rates.nominal(versions.get("card")),
            "stages": report,
        }
        path = os.path.join(self.settings.out, "gpu_check.json")
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(json.dumps(summary, indent=1) + "\n")
        os.replace(f"{path}.part", path)
