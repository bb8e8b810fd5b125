"""Runs the project's scripts within a stage's process, which saves start-up time and exposes their internals."""

import contextlib
import importlib.util
import io
import os

from running import ROOT


def call_script(name, *arguments):
    """Run scripts/NAME.py with arguments of any type; returns its stdout.

    RuntimeError: its exit status is not 0; the message has the end of its stderr.
    """
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, "scripts", f"{name}.py"))
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            script.main([str(argument) for argument in arguments])
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{name} failed with status {end.code}: {stderr.getvalue().strip()[-400:]}") from None
    return stdout.getvalue()
