"""The server of `visualize serve`, with and without a login; windows that vanish; recordings; odd cases."""

import os
import shutil
import subprocess
import sys
import types
import urllib.request

import numpy as np
import pytest
from helpers import ROOT, assert_refused, call_main, wait_for
from PIL import Image
from visdom_server import Server, picture_of, points_of, there, unused_port, windows_of

from guided_diffusion.errors import ConfigError
from guided_diffusion.masks import pictures
from guided_diffusion.masks.postprocess import PostprocessConfig, binarise
from guided_diffusion.visualize import server as visualize
from guided_diffusion.visualize.__main__ import main
from guided_diffusion.visualize.connection import VisdomConfig, connect
from guided_diffusion.visualize.inspector import ATTEMPTS, InspectConfig, Inspector
from guided_diffusion.visualize.windows import Windows, open_windows

visdom = pytest.importorskip("visdom")

RED = Image.new("RGB", (20, 10), (255, 0, 0))


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch):
    """What is new is sent at once, not every few seconds."""
    monkeypatch.setattr("guided_diffusion.visualize.windows.INTERVAL", 0.05)


@pytest.fixture
def own_server(tmp_path):
    """Starts a server for one test and stops it afterwards."""
    started = []

    def start(**how):
        started.append(Server(tmp_path / "kept", **how))
        started[0].start()
        return started[0]

    yield start
    for server in started:
        server.kill()


def command(*arguments):
    return call_main(main, *arguments)


# -- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A public server with the user ann and her password."""
    folder = tmp_path_factory.mktemp("guarded")
    server = Server(
        folder,
        "--public",
        environ={**os.environ, "HOME": str(folder), "VISDOM_USERNAME": "ann", "VISDOM_PASSWORD": "her own"},
    )
    server.start()
    yield server
    server.kill()


def test_a_public_server_accepts_windows_after_a_login(guarded, monkeypatch):
    config = guarded.config("guarded")
    for name, word, reason in ((None, None, "400"), ("ann", "another", "400"), ("ann", None, "VISDOM_PASSWORD is not")):
        for variable, value in (("VISDOM_USERNAME", name), ("VISDOM_PASSWORD", word)):
            monkeypatch.setenv(variable, value) if value else monkeypatch.delenv(variable, raising=False)
        lines = []
        with Windows(config, lines.append, retry=0.1) as windows:
            windows.lines("loss", 0, {"mse": 1})
            wait_for(lambda lines=lines: lines)
        assert len(lines) == 1 and reason in lines[0]
        assert_refused(command("inspect", *guarded.flags("guarded")[1:]), reason)
    monkeypatch.setenv("VISDOM_PASSWORD", "her own")
    with Windows(config, lines.append) as windows:
        windows.lines("loss", 0, {"mse": 1})
    assert len(lines) == 1 and points_of(windows_of(connect(config))["loss"]) == {"mse": ([0], [1])}


def test_the_page_of_a_public_server_lets_those_in_who_log_in(guarded, browser):
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{guarded.port}/")
    page.fill("#inputUsername", "ann")
    page.fill("#inputPassword", "her own")
    page.click("#submitButton")
    page.wait_for_function(
        "document.title == 'visdom' && document.querySelector('#app')?.children.length", timeout=20_000
    )
    assert "her" not in page.url  # the word is hashed and posted, by a script
    page.close()


def test_a_used_port_is_refused_before_an_address_is_printed(server):
    line = [sys.executable, "-m", "guided_diffusion.visualize", "serve", f"--port={server.port}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert_refused(done, f"--port {server.port}")
    assert "http://" not in done.stdout


def test_a_server_watches_no_file_of_the_code(tmp_path, monkeypatch):
    """It would restart, without its windows, whenever one changes. All but the endless loop is the real server's."""
    run_server = pytest.importorskip("visdom.server.run_server")
    watched, listened = [], []
    monkeypatch.setattr("tornado.autoreload.start", lambda *arguments: watched.append(True))
    monkeypatch.setattr(
        run_server.Application, "listen", lambda self, port, **more: listened.append((port, more["address"]))
    )
    monkeypatch.setattr(
        run_server,
        "ioloop",
        types.SimpleNamespace(IOLoop=types.SimpleNamespace(instance=lambda: types.SimpleNamespace(start=int))),
    )
    monkeypatch.setattr(visualize, "install_assets", lambda *arguments: [])
    monkeypatch.setattr(visualize.logging, "disable", lambda level: None)
    monkeypatch.setattr(visualize, "static_folder", lambda cache: str(tmp_path))
    settings = pytest.importorskip("visdom.server.app").tornado_settings
    monkeypatch.setattr("visdom.server.app.tornado_settings", dict(settings))
    assert "Visdom at http://localhost:8097" in command("serve", "--port=8097", f"--env_path={tmp_path}").stdout
    assert listened == [(8097, "127.0.0.1")] and not watched


def test_the_page_is_served_from_the_users_cache_and_the_package_is_left_alone(tmp_path, browser):
    """A copy of the package that nobody may write to, without the scripts that it lacks as it is installed."""
    package, cache, given = tmp_path / "package", tmp_path / "cache", tmp_path / "given"
    installed = os.path.dirname(visdom.__file__)
    shutil.copytree(installed, package / "visdom", ignore=shutil.ignore_patterns("__pycache__"))
    given.mkdir()
    for name in visualize.ASSETS:
        source = package / "visdom" / "static" / name
        if not source.exists():
            pytest.skip("the scripts of the page are not there")
        source.rename(given / os.path.basename(name))
    (package / "visdom" / "static" / "css" / "style.css").write_text("/* of the copy */")
    before = tree(package)
    for path in [package, *package.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    server = Server(tmp_path / "kept", f"--assets={given}", environ={**environ, "PYTHONDONTWRITEBYTECODE": "1"})
    server.start()
    try:
        pages = cache / "ambiguous-segmentation" / f"visdom-{visdom.__version__}"
        assert (pages / "css" / "style.css").read_text() == "/* of the copy */"
        assert all((pages / name).exists() for name in visualize.ASSETS) and tree(package) == before
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/static/js/jquery.min.js") as answer:
            assert answer.read() == (given / "jquery.min.js").read_bytes()
        (pages / "js" / "jquery.min.js").write_text("window.ours = 1")  # what is served is what is in the cache
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/static/js/jquery.min.js") as answer:
            assert answer.read() == b"window.ours = 1"
        shutil.copy(given / "jquery.min.js", pages / "js" / "jquery.min.js")
        with Windows(server.config("cached")) as windows:
            windows.lines("loss", 0, {"mse": 1})
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/env/cached")
        page.wait_for_selector(".window", timeout=30_000)
        page.close()
    finally:
        server.kill()
        for path in [package, *package.rglob("*")]:
            path.chmod(0o755)


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_refused(command("serve"), str(tmp_path / "file"), "XDG_CACHE_HOME")


def test_a_page_that_was_copied_in_part_is_completed(tmp_path):
    static = visualize.static_folder(str(tmp_path))
    own = os.path.join(os.path.dirname(visdom.__file__), "static", "index.html")
    for damaged in ("", "cut"):
        with open(os.path.join(static, "index.html"), "w") as file:
            file.write(damaged)
        assert visualize.static_folder(str(tmp_path)) == static
        assert os.path.getsize(os.path.join(static, "index.html")) == os.path.getsize(own)
    os.unlink(os.path.join(static, "index.html"))
    visualize.static_folder(str(tmp_path))
    assert os.path.exists(os.path.join(static, "index.html"))


# -- windows ----------------------------------------------------------------------------------------------------------


def test_windows_come_back_on_a_server_that_was_restarted_unnoticed(own_server, tmp_path):
    """Back before a message was lost: pictures, whose windows are not checked first, and lines in other windows."""
    server, lines = own_server(), []
    configs = {kind: server.config(kind) for kind in ("pictures", "lines")}
    shown = {kind: Windows(config, lines.append, retry=0.2) for kind, config in configs.items()}
    shown["lines"].lines("loss", 0, {"mse": 1})
    for name in ("first", "second"):  # one after the other, lest the second's news outlive its sending
        shown["pictures"].picture(name, RED)
        wait_for(lambda name=name: there(connect(configs["pictures"]), name))
    wait_for(lambda: there(connect(configs["lines"]), "loss"))
    server.kill()
    shutil.rmtree(tmp_path / "kept")
    server.start()
    shown["pictures"].picture("second", RED)
    shown["lines"].lines("loss", 1, {"mse": 2})
    wait_for(
        lambda: there(connect(configs["pictures"]), "first", "second") and there(connect(configs["lines"]), "loss")
    )
    for windows in shown.values():
        windows.close()
    assert not lines and points_of(windows_of(connect(configs["lines"]))["loss"])["mse"] == ([0, 1], [1, 2])


def test_a_window_that_is_closed_in_the_page_comes_back_whole_and_without_a_word(server):
    config, lines = server.config("closed"), []
    windows, client = Windows(config, lines.append), connect(config)
    for name in ("loss", "lr"):
        windows.lines(name, 0, {name: 1})
    wait_for(lambda: there(client, "loss", "lr"))
    client.close(win="lr")
    windows.lines("lr", 1, {"lr": 2})
    windows.close()
    assert points_of(windows_of(client)["lr"]) == {"lr": ([0, 1], [1, 2])} and not lines


def test_what_an_absent_server_misses_is_recorded(server, tmp_path):
    log, lines = tmp_path / "new" / "windows.log", []
    with unused_port() as port:
        config = VisdomConfig(
            visdom=True, visdom_server="http://127.0.0.1", visdom_port=port, visdom_env="missed", visdom_log=str(log)
        )
        with open_windows(config, log=lines.append) as windows:
            windows.lines("loss", 1, {"mse": 2})
            windows.picture("sheet", RED)
            wait_for(lambda: lines)
    assert len(lines) == 1
    done = command("replay", log, *server.flags("missed")[1:])
    assert done.returncode == 0 and "missed" in done.stdout
    content = windows_of(connect(server.config("missed")))
    assert points_of(content["loss"]) == {"mse": ([1], [2])} and (picture_of(content["sheet"]) == (255, 0, 0)).all()


def test_recordings_that_cannot_be_are_refused(server, tmp_path):
    with pytest.raises(ConfigError, match=f"--visdom_log {tmp_path} is not writable"):
        open_windows(VisdomConfig(visdom_log=str(tmp_path)))
    for text in ("no log\n", "[1, 2]\n", "3\n"):
        (tmp_path / "text").write_text(text)
        assert_refused(
            command("replay", tmp_path / "text", *server.flags("refused")[1:]), "not a file written by --visdom_log"
        )


# -- inspecting -------------------------------------------------------------------------------------------------------


class Kept:
    """A client that keeps what it is sent."""

    env = "inspect"

    def __init__(self):
        self.shown = {}

    def properties(self, data, win, opts):
        self.shown[win] = [item["values"] for item in data]

    def image(self, pixels, win, opts):
        self.shown[win] = opts["caption"]

    def text(self, text, win, opts):
        self.shown[win] = text

    def choose(self, inspector, place, value):
        inspector.on_event({"event_type": "PropertyUpdate", "eid": "inspect", "propertyId": place, "value": value})


@pytest.fixture
def odd(cases, tmp_path):
    """Samples and cases: one whose name is markup, one whose image is none, one whose image is of another size."""
    samples, data = tmp_path / "samples", tmp_path / "data"
    samples.mkdir()
    for name in ("<b>&", "broken", "large"):
        np.savez(samples / f"{name}_samples.npz", samples=np.zeros((2, 16, 12), np.float32))
        shutil.copytree(cases / "phantom0000", data / name)
        with Image.open(data / name / "image_phantom0000.png") as image:
            image.resize((12, 16)).save(data / name / "image_phantom0000.png")
        for path in (data / name).glob("label*"):
            Image.new("L", (12, 16)).save(path)
    (data / "broken" / "image_phantom0000.png").write_text("none")
    for path in (data / "large").glob("*.png"):
        Image.new("L", (20, 30)).save(path)
    (samples / "metrics.csv").write_text("case,samples,ged_2,ci_2\n<b>&,x,0.25,nan\nbroken,x,nan,0.5\nlarge,x,0.5,\n")
    return InspectConfig(str(samples), str(data))


def test_cases_that_cannot_be_shown_are_reported_and_others_can_be_chosen(odd):
    client = Kept()
    inspector = Inspector(client, odd)
    inspector.show()
    assert "<b>&lt;b&gt;&amp;</b>" in client.shown["figures"] and client.shown["masks"].startswith("<b>&")
    client.choose(inspector, 1, 1)
    assert "broken" in client.shown["figures"] and "cannot be read" in client.shown["figures"]
    client.choose(inspector, 1, 2)
    assert "large: samples have (16, 12) pixels, the image (30, 20)" in client.shown["figures"]
    client.choose(inspector, 1, 0)
    assert client.shown["masks"].startswith("<b>&")


class Busy(Kept):
    """A client of a server that answers too late, now and then."""

    late = 0  # pictures, from now on

    def image(self, pixels, win, opts):
        if self.late:
            self.late -= 1
            raise ConnectionError("no response")
        super().image(pixels, win, opts)


def test_what_was_chosen_is_sent_again_to_a_busy_server(odd):
    client = Busy()
    inspector = Inspector(client, odd)
    inspector.show()
    client.late = ATTEMPTS - 1
    client.choose(inspector, 2, 17)
    assert client.shown["masks"] == "<b>&, threshold 0.9"
    client.late = ATTEMPTS
    with pytest.raises(ConnectionError, match="no response"):
        client.choose(inspector, 2, 3)


def test_a_server_that_does_not_report_choices_is_not_waited_for_without_end(server, monkeypatch):
    monkeypatch.setattr("guided_diffusion.visualize.connection.PATIENCE", 0.2)
    monkeypatch.setattr(visdom.Visdom, "setup_socket", lambda self: setattr(self, "use_socket", False))
    with pytest.raises(ConnectionError, match="does not report window events"):
        connect(server.config("deaf"), listening=True)


def test_a_case_that_cannot_be_read_leaves_the_others_to_be_chosen(odd):
    os.rename(os.path.join(odd.samples, "<b>&_samples.npz"), os.path.join(odd.samples, "zero_samples.npz"))
    np.savez(os.path.join(odd.samples, "first_samples.npz"), samples=np.full((2, 16, 12), np.nan, np.float32))
    os.unlink(os.path.join(odd.samples, "broken_samples.npz"))
    os.rename(os.path.join(odd.data_dir, "<b>&"), os.path.join(odd.data_dir, "zero"))
    client = Kept()
    client.register_event_handler = lambda handler, win: None
    inspector = Inspector(client, odd)
    inspector.start()
    assert "not finite" in client.shown["figures"]
    client.choose(inspector, 1, 2)
    assert client.shown["masks"].startswith("zero")
    client.choose(inspector, 0, 1)  # by variance: that one has none
    assert client.shown["cases"][1][-1] == "first"


def test_masks_are_shown_as_they_were_written(odd):
    samples = np.zeros((2, 16, 12), np.float32)
    samples[:, 4:9, 4:9], samples[:, 14, 2] = 0.4, 1
    np.savez(os.path.join(odd.samples, "<b>&_samples.npz"), samples=samples, threshold=0.3, median_blur=3)
    inspector = Inspector(Kept(), odd)
    assert inspector.threshold == 0.3 and inspector.spread["<b>&"] == 0
    masks = binarise(samples, PostprocessConfig(threshold=0.3, median_blur=3))
    assert masks.any() and not masks[:, 14, 2].any()
    case, _ = inspector._case(samples, {})
    expected = pictures.sheet(case.image[0], case.raters, masks)
    np.testing.assert_array_equal(np.asarray(inspector.page()), np.asarray(expected))


def test_figures_are_those_of_the_folder_and_not_of_what_it_was_compared_with(odd):
    with open(os.path.join(odd.samples, "metrics.csv"), "w") as file:
        file.write("case,samples,ged_2\nlarge,own,0.1\nlarge,other,0.9\nbroken,own,0.2\nbroken,other,0.8\n")
    assert Inspector(Kept(), odd).figures == {"large": {"ged_2": 0.1}, "broken": {"ged_2": 0.2}}


def test_figures_that_are_not_finite_are_sorted_as_none(odd):
    client = Kept()
    inspector = Inspector(client, odd)
    for place, labels in (
        (2, ["large  ged 0.5000", "<b>&  ged 0.2500", "broken"]),
        (3, ["broken  ci 0.5000", "<b>&", "large"]),
    ):
        client.choose(inspector, 0, place)
        assert client.shown["cases"][1] == labels
