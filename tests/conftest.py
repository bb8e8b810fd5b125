import os
import pathlib
import shutil
import signal

import pytest
import torch
from helpers import ROOT

from guided_diffusion import phantom

os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the programs under test too, which would choose a number by timing
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would the programs under test


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Decoded cases go into a folder of the tests', not into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """A folder of six 16x16 phantom cases with three raters."""
    folder = tmp_path_factory.mktemp("cases")
    phantom.write_set(folder, num_cases=6, seed=5, size=16, num_raters=3)
    return folder


@pytest.fixture(scope="session")
def real_data():
    """The folder of real multi-rater sets, $CIMD_REAL_DATA or ../shared/real; tests are skipped without it."""
    folder = pathlib.Path(os.environ.get("CIMD_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set CIMD_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: the system's, or Playwright's own. Without one tests are skipped, or fail if CIMD_REQUIRE_BROWSER is set."""
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
    from visdom_server import Server  # which wants the extra, as only those tests do

    server = Server(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.kill()
