"""Visdom: windows on a real server, which may be absent, die, hang or come back; recordings; the page in a browser."""

import base64
import contextlib
import csv
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import ROOT, TINY, as_arguments, assert_refused, call_main, call_script, read_image, wait_for
from PIL import Image
from visdom_server import Server, picture_of, points_of, there, unused_port, windows_of

from guided_diffusion.errors import ConfigError, DataError
from guided_diffusion.logger import NullSink
from guided_diffusion.masks import legends, pictures
from guided_diffusion.visualize.__main__ import main
from guided_diffusion.visualize.connection import VisdomConfig, connect
from guided_diffusion.visualize.inspector import InspectConfig, Inspector
from guided_diffusion.visualize.server import ASSETS, install_assets
from guided_diffusion.visualize.windows import MOST_PICTURES, MOST_POINTS, Windows, open_windows, show_metrics

pytest.importorskip("visdom")

RED, BLUE = (Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 0, 255)))


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch):
    """What is new is sent at once, not every few seconds."""
    monkeypatch.setattr("guided_diffusion.visualize.windows.INTERVAL", 0.05)


# -- windows ----------------------------------------------------------------------------------------------------------


def test_windows_hold_the_numbers_and_pictures_that_were_sent(server):
    config = server.config("numbers")
    with Windows(config) as windows:
        for step in range(50):
            windows.lines("loss", step, {"mse": step / 10, "vb": -step})
        windows.picture("sheet", BLUE, "old")
        windows.picture("sheet", RED, "new")
    content = windows_of(connect(config))
    assert content.keys() == {"loss", "sheet"}
    points = points_of(content["loss"])
    assert (
        points["mse"] == (list(range(50)), pytest.approx([step / 10 for step in range(50)]))
        and points["vb"][1][-1] == -49
    )
    assert content["sheet"]["caption"] == "new" and (picture_of(content["sheet"]) == (255, 0, 0)).all()


def test_windows_are_updated_in_place_and_old_pictures_go(server):
    config = server.config("inplace")
    windows = Windows(config)
    client = connect(config)
    for step in range(3):
        windows.lines("loss", step, {"mse": step})
        wait_for(
            lambda step=step: there(client, "loss") and len(points_of(windows_of(client)["loss"])["mse"][0]) == step + 1
        )
    for k in range(MOST_PICTURES + 5):
        windows.picture(f"picture {k}", RED)
    assert sum(name.startswith("picture") for name in windows.content) == MOST_PICTURES
    windows.close()
    assert "loss" in windows_of(client)


class Kept:
    """A client that stores the lines it receives, {series: steps}, like a server."""

    def __init__(self):
        self.shown = {}

    def win_exists(self, win):
        return True

    def line(self, X, Y, win, name, update, opts):
        self.shown[name] = ([] if update != "append" else self.shown[name]) + list(X)


def test_long_lines_are_thinned_out_not_cut():
    client = Kept()
    with Windows(VisdomConfig(visdom=True), connect=lambda config: client) as windows:
        for step in range(3 * MOST_POINTS):
            windows.lines("loss", step, {"mse": step})
    steps = client.shown["mse"]
    assert (
        MOST_POINTS / 3 < len(steps) <= MOST_POINTS
        and steps[0] == 0
        and steps[-1] == 3 * MOST_POINTS - 1
        and steps == sorted(steps)
    )


def test_lines_that_are_thinned_out_while_they_are_sent_are_sent_whole_the_next_time():
    whole, sent = threading.Event(), threading.Event()

    class Interrupted(Kept):
        def line(self, X, Y, win, name, update, opts):
            super().line(X, Y, win, name, update, opts)
            if len(self.shown[name]) == MOST_POINTS:  # the run continues meanwhile
                windows.lines("loss", MOST_POINTS, {"mse": 0})
            sent.set()

    def connect_late(config):
        whole.wait()
        return client

    client = Interrupted()
    windows = Windows(VisdomConfig(visdom=True), connect=connect_late)
    for step in range(MOST_POINTS):
        windows.lines("loss", step, {"mse": 0})
    whole.set()
    assert sent.wait(20)
    windows.close()
    assert client.shown["mse"] == list(range(0, MOST_POINTS + 1, 2))


def test_a_server_that_dies_and_comes_back_is_sent_everything_again(tmp_path):
    server, reported = Server(tmp_path), []
    server.start()
    config = server.config("back")
    windows = Windows(config, reported.append, retry=0.2)
    windows.lines("loss", 0, {"mse": 1})
    windows.picture("sheet", RED)
    wait_for(lambda: there(connect(config), "loss", "sheet"))
    server.kill()
    windows.lines("loss", 1, {"mse": 2})
    wait_for(lambda: reported)
    shutil.rmtree(tmp_path)  # what the server had kept
    server.start()
    wait_for(lambda: there(connect(config), "loss", "sheet"))
    assert points_of(windows_of(connect(config))["loss"])["mse"] == ([0, 1], [1, 2])
    windows.close()
    server.kill()
    assert len(reported) == 1 and str(server.port) in reported[0]


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_error(403)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def no_server(kind):
    """A port without a Visdom server: absent; silent (accepts, never responds); or refusing."""
    if kind == "absent":
        with unused_port() as port:
            yield port
    elif kind == "refusing":
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as listener:
            threading.Thread(target=listener.serve_forever, daemon=True).start()
            yield listener.server_port
            listener.shutdown()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["absent", "silent", "silent at the login", "refusing"])
def test_a_missing_server_is_logged_once(kind, capfd, monkeypatch):
    if kind.startswith("silent"):
        monkeypatch.setattr("guided_diffusion.visualize.connection.TIMEOUT", (0.1, 0.1))
    if kind == "silent at the login":
        monkeypatch.setenv("VISDOM_USERNAME", "somebody")
        monkeypatch.setenv("VISDOM_PASSWORD", "something")
    reported, attempts = [], []

    def count_and_connect(config):
        attempts.append(config)
        return connect(config)

    with no_server(kind) as port:
        config = VisdomConfig(visdom=True, visdom_server="http://127.0.0.1", visdom_port=port)
        windows = Windows(config, reported.append, retry=0.01, connect=count_and_connect)
        windows.lines("loss", 0, {"mse": 0})
        windows.picture("sheet", RED)
        wait_for(lambda: len(attempts) >= 4)  # the first of which is reported
        windows.close(seconds=60)
        assert not windows.thread.is_alive()
    reason = {"absent": "no server found", "refusing": "the server returned status 403"}.get(kind, "no response")
    assert len(reported) == 1 and f"127.0.0.1:{port} cannot be updated ({reason}" in reported[0]
    assert capfd.readouterr() == ("", "")


def test_a_run_is_never_held_up_by_its_windows():
    """While the client hangs, the run's calls return; the last content is shown once the client responds."""
    answer, threads, client = threading.Event(), [], Kept()

    def hang(config):
        threads.append(threading.current_thread())
        answer.wait()
        return client

    windows = Windows(VisdomConfig(visdom=True), connect=hang)
    for step in range(300):
        windows.lines("loss", step, {"mse": step})
    wait_for(lambda: threads)
    windows.close(seconds=0)  # nor does it wait here
    assert windows.thread.is_alive() and threads == [windows.thread]
    answer.set()
    windows.thread.join(20)
    assert client.shown["mse"] == list(range(300))


def test_without_being_asked_nothing_is_imported_or_connected(monkeypatch):
    monkeypatch.setitem(sys.modules, "visdom", None)
    assert type(open_windows(VisdomConfig())) is NullSink and not open_windows(VisdomConfig()).shown
    assert type(open_windows(VisdomConfig(visdom=True), is_main=False)) is NullSink
    with pytest.raises(ConfigError, match="pip install 'ambiguous-segmentation-diffusion\\[visdom\\]'"):
        open_windows(VisdomConfig(visdom=True))


def test_quartiles_share_a_window():
    class Kept(NullSink):
        def __init__(self):
            self.seen = {}

        def lines(self, window, step, values):
            self.seen[window] = (step, values)

    kept = Kept()
    show_metrics(kept, {"step": 7, "samples": 28, "loss": 1.0, "loss_q0": 2.0, "loss_q3": 3.0, "lr": 0.1, "ged_4": 0.5})
    assert kept.seen == {
        "loss": (7, {"loss": 1.0}),
        "loss by quartile of t": (7, {"q0": 2.0, "q3": 3.0}),
        "lr": (7, {"lr": 0.1}),
        "ged_4": (7, {"ged_4": 0.5}),
    }


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(cases, server, tmp_path_factory):
    """The log folder of a run with windows and a recording."""
    folder = tmp_path_factory.mktemp("trained")
    done = call_script(
        "segmentation_train",
        f"--data_dir={cases}",
        f"--log_dir={folder}",
        "--iterations=6",
        "--batch_size=2",
        "--log_interval=2",
        f"--eval_data_dir={cases}",
        "--eval_interval=3",
        "--eval_cases=2",
        "--eval_steps=2",
        f"--visdom_log={folder}/windows.log",
        *server.flags("training"),
        *as_arguments(TINY),
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_training_shows_its_numbers_and_validation_samples(server, trained):
    content = windows_of(connect(server.config("training")))
    names = {
        "loss",
        "mse",
        "vb",
        "kl",
        "loss by quartile of t",
        "grad_norm",
        "lr",
        "samples_per_second",
        "ged_4",
        "dice_4",
        "validation samples",
    }
    assert names <= content.keys()
    with open(trained / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    for column in ("loss", "grad_norm", "ged_4"):
        logged = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        steps, values = points_of(content[column])[column]
        assert list(zip(steps, values, strict=True)) == [
            (step, pytest.approx(value, rel=1e-4)) for step, value in logged
        ]
    assert (
        picture_of(content["validation samples"]).shape[0] > 100
        and content["validation samples"]["caption"] == "step 6"
    )


def test_the_curves_of_a_run_that_continues_begin_where_it_did(server, cases, tmp_path):
    def train(iterations, env, *flags, column="loss"):
        done = call_script(
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path}",
            f"--iterations={iterations}",
            "--batch_size=2",
            "--log_interval=2",
            *flags,
            *server.flags(env),
            *as_arguments(TINY),
        )
        assert done.returncode == 0, done.stderr
        return points_of(windows_of(connect(server.config(env)))[column])[column]

    (steps, values), (steps_again, values_again) = (
        train(4, "first"),
        train(6, "second"),
    )  # a server that knows nothing of the first
    assert steps == [2, 4] and steps_again == [2, 4, 6] and values_again[:2] == pytest.approx(values, rel=1e-4)
    assert train(6, "third") == (steps_again, pytest.approx(values_again, rel=1e-4))  # with nothing left to train
    validation = (f"--eval_data_dir={cases}", "--eval_cases=2", "--eval_steps=2")
    assert train(6, "fourth", *validation, column="ged_4")[0] == [6]  # but a validation that was missed


def test_what_was_recorded_is_replayed(server, trained, tmp_path):
    log = trained / "windows.log"
    done = call_main(main, "replay", log, *server.flags("training")[1:])
    assert done.returncode == 0, done.stderr
    alone = tmp_path / "alone.log"  # without a server at all
    with Windows(VisdomConfig(visdom_env="replayed", visdom_log=str(alone))) as windows:
        windows.lines("loss", 1, {"mse": 2})
        windows.picture("sheet", BLUE)
    connect(server.config("replayed")).replay_log(str(alone))
    content = windows_of(connect(server.config("replayed")))
    assert points_of(content["loss"]) == {"mse": ([1], [2])} and (picture_of(content["sheet"]) == (0, 0, 255)).all()


@pytest.fixture(scope="module")
def sampled(cases, server, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    done = call_script(
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={trained}/savedmodel.pt",
        f"--out_dir={folder}",
        "--num_ensemble=3",
        "--timestep_respacing=5",
        "--movie",
        "--evaluate",
        *server.flags("sampling"),
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_sampling_shows_the_chain_and_the_latest_cases_and_writes_movies(server, cases, sampled):
    content = windows_of(connect(server.config("sampling")))
    assert content.keys() == {
        "case",
        "x_t",
        "masks",
        "mean, variance and entropy",
        "latest 0",
        "latest 1",
        "latest 2",
        "latest 3",
    }
    assert (
        content["latest 1"]["caption"] == "phantom0005" and content["latest 3"]["caption"] == "phantom0003"
    )  # six cases, four windows
    np.testing.assert_array_equal(
        picture_of(content["latest 1"]), np.asarray(Image.open(sampled / "phantom0005_sheet.png"))
    )
    for k in range(6):
        film = Image.open(sampled / f"phantom000{k}_movie.gif")
        frames = []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("L")))
        assert film.n_frames >= 5
        last = frames[-1][legends.MARGIN + legends.LABEL_HEIGHT :, 2 * legends.MARGIN + 128 :][:128, :128][4::8, 4::8]
        with np.load(sampled / f"phantom000{k}_samples.npz") as file:
            np.testing.assert_allclose(last, np.clip(file["samples"][0], 0, 1) * 255, atol=3)


def test_a_movie_that_is_missing_is_made(cases, trained, sampled, tmp_path):
    shutil.copytree(sampled, tmp_path, dirs_exist_ok=True)
    (tmp_path / "phantom0001_movie.gif").unlink()
    done = call_script(
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={trained}/savedmodel.pt",
        f"--out_dir={tmp_path}",
        "--num_ensemble=3",
        "--timestep_respacing=5",
        "--movie",
    )
    assert done.returncode == 0 and "1 of 6 cases to draw" in done.stderr + done.stdout, done.stderr
    name = "phantom0001_movie.gif"
    assert (tmp_path / name).read_bytes() == (sampled / name).read_bytes()


def test_windows_change_nothing_of_a_run(cases, trained, sampled, tmp_path):
    done = call_script(
        "segmentation_sample",
        f"--data_dir={cases}",
        f"--model_path={trained}/savedmodel.pt",
        f"--out_dir={tmp_path}",
        "--num_ensemble=3",
        "--timestep_respacing=5",
    )
    assert done.returncode == 0, done.stderr
    for k in range(6):
        with (
            np.load(tmp_path / f"phantom000{k}_samples.npz") as a,
            np.load(sampled / f"phantom000{k}_samples.npz") as b,
        ):
            np.testing.assert_array_equal(a["samples"], b["samples"])
    assert not list(tmp_path.glob("*_movie.gif"))


# -- inspecting -------------------------------------------------------------------------------------------------------


class Recorder:
    """A client that keeps what it is sent."""

    env = "inspect"

    def __init__(self):
        self.shown, self.handlers = {}, {}

    def properties(self, data, win, opts):
        self.shown[win] = data

    def image(self, pixels, win, opts):
        self.shown[win] = (pixels, opts["caption"])

    def text(self, text, win, opts):
        self.shown[win] = text

    def register_event_handler(self, handler, win):
        self.handlers[win] = handler

    def change(self, place, value, env="inspect"):
        self.handlers["cases"]({"event_type": "PropertyUpdate", "eid": env, "propertyId": place, "value": value})


def test_cases_are_chosen_by_their_figures_and_masks_follow_the_threshold(cases, sampled):
    client = Recorder()
    Inspector(client, InspectConfig(str(sampled), str(cases))).start()
    assert [item["name"] for item in client.shown["cases"]] == ["sorted by", "case", "threshold"]
    client.change(0, 2)  # by energy distance
    labels = client.shown["cases"][1]["values"]
    values = [float(re.search(r"ged ([\d.]+)", label)[1]) for label in labels]
    assert values == sorted(values, reverse=True) and len(values) == 6
    client.change(1, "0")
    worst = labels[0].split()[0]
    pixels, caption = client.shown["masks"]
    assert caption == f"{worst}, threshold 0.5" and f"<b>{worst}</b>" in client.shown["figures"]
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1), np.asarray(Image.open(sampled / f"{worst}_sheet.png")))
    thresholds = client.shown["cases"][2]["values"]
    for threshold in ("0.20", "0.80"):
        client.change(2, str(thresholds.index(threshold)))
        pixels, caption = client.shown["masks"]
        with np.load(sampled / f"{worst}_samples.npz") as file:
            masks = file["samples"] > float(threshold)
        image = read_image(str(cases / worst / f"image_{worst}.png"))
        raters = np.stack([np.asarray(Image.open(cases / worst / f"label{k}_.png")) for k in range(3)])
        np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1), np.asarray(pictures.sheet(image, raters, masks)))
    before = dict(client.shown)
    for place, value in ((2, "99"), (2, "x"), (1, "99"), (0, None)):  # passed over
        client.change(place, value)
    client.change(2, "3", env="another")  # the server sends it to everybody
    assert client.shown["masks"][1] == before["masks"][1]


def test_samples_that_were_scored_are_shown_over_their_images_wherever_both_are(cases, sampled, tmp_path):
    shutil.copytree(cases, tmp_path / "cases")
    shutil.copytree(sampled, tmp_path / "samples")
    summary = json.loads((sampled / "metrics.json").read_text())
    (tmp_path / "samples" / "metrics.json").write_text(json.dumps({**summary, "data_dir": "../cases"}))
    for folder in (sampled, tmp_path / "samples"):
        page = np.asarray(Inspector(Recorder(), InspectConfig(str(folder))).page())
        np.testing.assert_array_equal(page, np.asarray(Image.open(sampled / "phantom0000_sheet.png")))
    for text in ("{}", "none", json.dumps({"data_dir": "nowhere"})):
        (tmp_path / "samples" / "metrics.json").write_text(text)
        assert Inspector(Recorder(), InspectConfig(str(tmp_path / "samples"))).folders == {}


def test_inspecting_refuses_what_is_not_there(tmp_path):
    for folder, words in (("/nowhere", "no such folder"), (str(tmp_path), "no samples")):
        with pytest.raises(DataError, match=words):
            Inspector(Recorder(), InspectConfig(folder))


# -- commands ---------------------------------------------------------------------------------------------------------


def test_refusals(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("no log\n")
    for name in [name for name in os.environ if name.startswith("VISDOM")]:
        monkeypatch.delenv(name)
    with unused_port() as port:
        for arguments, words in [
            (["show"], ["show is unknown: use serve, inspect or replay"]),
            (["serve", "--public"], ["--public needs a login", "VISDOM_USERNAME"]),
            (["serve", "--port=0"], ["--port 0"]),
            (["replay", "/nowhere"], ["/nowhere"]),
            (["replay", tmp_path / "text", f"--visdom_port={port}"], ["no server found", str(port), "visualize serve"]),
            (["inspect", "--samples=/nowhere", f"--visdom_port={port}"], ["no server found"]),
        ]:
            assert_refused(call_main(main, *arguments), *words)


def test_assets_come_from_a_folder_where_there_is_no_registry(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    for name in ASSETS:
        (given / os.path.basename(name)).write_text(name)
    assert install_assets(str(tmp_path / "static"), str(given)) == list(ASSETS)
    assert install_assets(str(tmp_path / "static"), "/nowhere") == []  # all there
    assert (tmp_path / "static" / "css" / "bootstrap.min.css").read_text() == "css/bootstrap.min.css"
    (tmp_path / "static" / "js" / "jquery.min.js").unlink()
    with pytest.raises(DataError, match="jquery.min.js: missing.*--assets"):
        install_assets(str(tmp_path / "static"), "/nowhere")
    with unused_port() as port, pytest.raises(DataError, match="jquery.min.js: missing.*--assets"):
        install_assets(str(tmp_path / "static"), registry=f"http://127.0.0.1:{port}")


def test_the_server_listens_on_this_machine_only(server):
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    listening = {
        row[1].split(":")[0] for row in rows if int(row[1].split(":")[1], 16) == server.port and row[3] == "0A"
    }
    assert listening == {"0100007F"}  # 127.0.0.1


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser, server):
    """Opens the page of an environment."""
    page = browser.new_page(viewport={"width": 1500, "height": 1100})

    def open_page(env):
        page.goto(f"http://127.0.0.1:{server.port}/env/{env}")
        page.wait_for_selector(".window", timeout=30_000)
        return page

    yield open_page
    page.close()


def test_the_page_shows_training(visit, server, trained):
    page = visit("training")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length >= 8", timeout=30_000)
    drawn = page.evaluate(
        """Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].map(
            plot => [plot.layout.title.text ?? plot.layout.title, [...plot.data[0].y]]))"""
    )
    sent = points_of(windows_of(connect(server.config("training")))["loss"])["loss"][1]
    assert drawn["loss"] == pytest.approx(sent)
    window = page.locator(".window").filter(has=page.get_by_text("validation samples", exact=True))
    source = window.locator("img").get_attribute("src")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))
    np.testing.assert_array_equal(
        shown, picture_of(windows_of(connect(server.config("training")))["validation samples"])
    )
    picture, above, below = (window.locator(part).bounding_box() for part in ("img", "p.caption", ".widgets"))
    assert (
        above["y"] + above["height"] <= picture["y"] and picture["y"] + picture["height"] <= below["y"]
    )  # no part of it is covered
    if os.environ.get("CIMD_SCREENSHOTS"):
        page.screenshot(path=os.path.join(os.environ["CIMD_SCREENSHOTS"], "visdom_training.png"))


def test_the_page_answers_when_a_threshold_is_moved(visit, server, cases, sampled):
    arguments = [
        f"--samples={sampled}",
        f"--data_dir={cases}",
        "--visdom_server=http://127.0.0.1",
        f"--visdom_port={server.port}",
        "--visdom_env=inspect",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "guided_diffusion.visualize", "inspect", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert "6 cases at" in process.stdout.readline()
        page = visit("inspect")

        def shown():
            source = page.locator(".window img").first.get_attribute("src")
            return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))

        page.wait_for_selector(".window img")
        np.testing.assert_array_equal(shown(), np.asarray(Image.open(sampled / "phantom0000_sheet.png")))
        with np.load(sampled / "phantom0000_samples.npz") as file:
            masks = file["samples"] > 0.9
        image = read_image(str(cases / "phantom0000" / "image_phantom0000.png"))
        raters = np.stack([np.asarray(Image.open(cases / "phantom0000" / f"label{k}_.png")) for k in range(3)])
        expected = np.asarray(pictures.sheet(image, raters, masks))

        def choose_again():  # Visdom hands a choice on once, and without a receipt
            page.locator(".content-properties select").nth(2).select_option(label="0.90")
            end = time.monotonic() + 10
            while time.monotonic() < end and not np.array_equal(shown(), expected):
                time.sleep(0.05)
            return np.array_equal(shown(), expected)

        wait_for(choose_again)
        if os.environ.get("CIMD_SCREENSHOTS"):
            page.screenshot(path=os.path.join(os.environ["CIMD_SCREENSHOTS"], "visdom_inspect.png"))
    finally:
        process.send_signal(signal.SIGINT)
        print(process.communicate(timeout=20)[0])  # seen where the test fails


def test_a_separate_process_logs_one_line_if_there_is_no_server(cases, tmp_path):
    with unused_port() as port:
        command = [
            sys.executable,
            ROOT / "scripts" / "segmentation_train.py",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path}",
            "--iterations=3",
            "--batch_size=2",
            "--log_interval=1",
            "--visdom",
            "--visdom_server=http://127.0.0.1",
            f"--visdom_port={port}",
            *as_arguments(TINY),
        ]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
    output = done.stdout.decode()
    assert done.returncode == 0 and "Traceback" not in output, output
    assert output.count("cannot be updated") == 1 and re.search(
        r"[\r\n]Visdom at", output
    )  # not behind the bar of progress
