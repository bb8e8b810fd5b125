"""Sinks, logs and reports implement their interfaces; the null forms do nothing; how log.txt begins."""

import datetime
import io
import platform
import re
import sys

import pytest
import torch
from helpers import ROOT
from PIL import Image

from guided_diffusion.evaluation.report import BaseReport, NullReport, Report
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.logger import BaseLogger, Logger, NullLogger, NullSink, Sink, TensorBoard
from guided_diffusion.system.progress import progress_bar
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.run_log import run_header
from guided_diffusion.visualize.windows import BothWindows, Windows

FORMS = {
    Sink: (NullSink, TensorBoard, Windows, BothWindows),
    BaseLogger: (NullLogger, Logger),
    BaseReport: (NullReport, Report),
}


@pytest.mark.parametrize("base", FORMS)
def test_a_form_that_lacks_a_method_cannot_be_made(base):
    assert base.__abstractmethods__
    for form in FORMS[base]:
        assert issubclass(form, base) and not form.__abstractmethods__
    for name in base.__abstractmethods__:
        others = {other: lambda *arguments: None for other in base.__abstractmethods__ - {name}}
        with pytest.raises(TypeError, match=name):
            type("Incomplete", (base,), others)()


def test_the_null_forms_do_nothing(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with NullSink() as sink, NullReport() as report:
        sink.lines("loss", 1, {"mse": 0.5})
        sink.show_metrics({"step": 1})
        sink.picture("sheet", Image.new("L", (2, 2)))
        report.add("case", {"ged": 0.5}, {})
    logger = NullLogger()
    logger.info("a line")
    logger.metrics({"step": 1})
    with logger.progress(0, None, "step") as bar:
        bar.update()
    logger.close()
    assert not sink.shown and not logger.events.shown and not logger.earlier
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_a_log_begins_with_its_header_each_time_the_run_is_started(tmp_path, capsys):
    for step in (1, 2):
        log = Logger(str(tmp_path), ["step"], header=[f"started: {step}", "command: train"])
        log.info(f"line {step}")
        log.close()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["started: 1", "command: train", "line 1", "started: 2", "command: train", "line 2"]
    assert capsys.readouterr().out.splitlines() == ["line 1", "line 2"]  # who typed the command knows it


def test_the_header_of_a_run_names_time_command_versions_and_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--data_dir", "my cases"])
    given = {"data_dir": "my cases", "lr": 0.002, "ema_rate": (0.5, 0.9), "microbatch": None}
    header = run_header(configs_from_flags(given, TrainConfig), torch.device("cpu"))
    started, command, versions, flags = header
    begin = datetime.datetime.fromisoformat(started.removeprefix("started: "))
    assert abs(begin - datetime.datetime.now().astimezone()) < datetime.timedelta(minutes=1)
    assert command == "command: python train.py --data_dir 'my cases'"
    assert f"Python {platform.python_version()}, torch {torch.__version__}" in versions
    assert flags == "flags: --data_dir 'my cases' --lr 0.002 --ema_rate 0.5,0.9"  # all others are at their defaults


def test_no_bars_are_drawn_into_redirected_output(monkeypatch):
    class Stream(io.StringIO):
        terminal = False

        def isatty(self):
            return self.terminal

    for terminal, shown, drawn in [(True, True, True), (False, True, False), (True, False, False)]:
        stream = Stream()
        stream.terminal = terminal
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress_bar(range(3), shown=shown, mininterval=0)) == [0, 1, 2]
        with progress_bar(total=2, unit="mask", shown=shown) as bar:
            bar.update()
            bar.set_postfix({"loss": "1"})
        assert bool(stream.getvalue()) == drawn


def test_only_one_place_makes_bars():
    for path in (ROOT / "guided_diffusion").rglob("*.py"):
        if path.name != "progress.py":
            assert not re.search(r"(?<![\w.])tqdm\(", path.read_text()), path
