"""What shows a run, logs it or reports it has every method of its interface, and its null form does nothing."""

import pytest
from PIL import Image

from guided_diffusion.evaluation.report import BaseReport, NullReport, Report
from guided_diffusion.logger import BaseLogger, Logger, NullLogger, NullSink, Sink, TensorBoard
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
