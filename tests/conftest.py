import os
import pathlib
import shutil
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: processes share the cores, not threads

import pytest
import shape_checks  # before anything of guided_diffusion is
import torch
from filelock import FileLock
from helpers import LEAST, ROOT, TINY, as_arguments, call_script
from ranks import Ranks
from small_runs import train_small

from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.prepare.phantoms import phantom

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores it, and so would the programs under test


def pytest_collection_modifyitems(items):
    """What takes the pair of processes is marked so."""
    for item in items:
        if "ranks" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.multi_process)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Decoded cases go into a folder of the tests', not into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function of (name, make) that finds the folder `name`, which make(folder) fills once for all xdist workers.

    Tests only read it.
    """
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def find(name, make):
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return find


@pytest.fixture(scope="session")
def cases(made_once):
    """A folder of six 16x16 phantom cases with three raters."""
    return made_once("cases", lambda folder: phantom.write_set(folder, num_cases=6, seed=5, size=16, num_raters=3))


@pytest.fixture(scope="session")
def modalities(made_once):
    """A folder of four 16x16 phantom cases with three modalities and two raters."""

    def write(folder):
        phantom.write_set(folder, num_cases=4, seed=5, size=16, num_raters=2, num_modalities=3)

    return made_once("modalities", write)


@pytest.fixture(scope="session")
def trained(made_once, cases):
    """The log folder of a TINY model after four steps on `cases`, the same for all tests that need a trained model.

    It holds savedmodel.pt, progress.csv and log.txt. Read it only; copy it to resume it.
    """

    def train(folder):
        flags = [f"--data_dir={cases}", f"--log_dir={folder}", "--iterations=4", "--batch_size=2", "--log_interval=2"]
        done = call_script("segmentation_train", *flags, *as_arguments(TINY))
        assert done.returncode == 0, done.stderr

    return made_once("trained", train)


@pytest.fixture
def train(cases, tmp_path):
    """A function of (name, **flags) that trains the smallest model on `cases`, in the folder `name`; the trainer."""
    dataset = LIDCDataset(cases, LEAST["image_size"], LEAST["image_channels"])
    defaults = {"data_dir": str(cases)}
    return lambda name, **given: train_small(dataset, **{**defaults, "log_dir": str(tmp_path / name), **given})


@pytest.fixture(autouse=True)
def checked():
    """Each test checks the first calls of every function of the method."""
    shape_checks.begin_test()


@pytest.fixture(autouse=True)
def processor(monkeypatch):
    """A processor without bfloat16, whatever this one has; calling the fixture gives it bfloat16."""
    found = [False]
    monkeypatch.setattr("guided_diffusion.system.precision.has_bf16", lambda: found[0])
    return lambda: found.insert(0, True)


@pytest.fixture
def unchecked():
    """No types and shapes are checked: see shape_checks.py."""
    with shape_checks.suspended():
        yield


@pytest.fixture(scope="session")
def ranks():
    """Runs a script's main() in two processes of one gloo group: see ranks.py."""
    return Ranks()


@pytest.fixture(scope="session")
def real_data():
    """The folder of real multi-rater sets, $CIMD_REAL_DATA or ../shared/real; tests are skipped without it."""
    folder = pathlib.Path(os.environ.get("CIMD_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set CIMD_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: the system's, or Playwright's own.

    Without one tests are skipped, or fail if CIMD_REQUIRE_BROWSER is set.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as p:
        try:
            browser = p.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        except playwright.Error:
            absent = pytest.fail if os.environ.get("CIMD_REQUIRE_BROWSER") else pytest.skip
            absent("no Chromium: apt-get install chromium, or playwright install chromium")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Visdom server for the tests of one module."""
    from visdom_server import Server  # needs the extra, as only those tests do

    server = Server(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.kill()
