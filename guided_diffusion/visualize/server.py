"""The commands serve, inspect and replay: a local Visdom server, the inspector, and replay of recordings."""

import contextlib
import io
import logging
import os
import secrets
import sys
import tarfile
import time
import urllib.request
from collections.abc import Mapping
from typing import Annotated, NoReturn

from ..errors import ConfigError, DataError
from ..flags.fields import Flag, config
from ..system import storage
from ..system.folders import user_cache
from .connection import PACKAGE, VisdomConfig, connect
from .inspector import InspectConfig, Inspector

BOOTSTRAP = "bootstrap/-/bootstrap-3.3.7.tgz"
# Files of Visdom's page that its package does not include: path in the page's folder -> (npm package, file in it)
ASSETS = {
    "js/jquery.min.js": ("jquery/-/jquery-3.7.1.tgz", "package/dist/jquery.min.js"),
    "js/plotly-plotly.min.js": ("plotly.js-dist-min/-/plotly.js-dist-min-2.35.2.tgz", "package/plotly.min.js"),
    "js/layout_bin_packer.js": ("layout-bin-packer/-/layout-bin-packer-1.4.0.tgz", "package/dist/layout-bin-packer.js"),
    "js/sjcl.js": ("sjcl/-/sjcl-1.0.8.tgz", "package/sjcl.js"),  # for the login
    "js/bootstrap.min.js": (BOOTSTRAP, "package/dist/js/bootstrap.min.js"),
    "css/bootstrap.min.css": (BOOTSTRAP, "package/dist/css/bootstrap.min.css"),
    "fonts/glyphicons-halflings-regular.woff2": (BOOTSTRAP, "package/dist/fonts/glyphicons-halflings-regular.woff2"),
    "css/react-resizable-styles.css": ("react-resizable/-/react-resizable-1.4.6.tgz", "package/css/styles.css"),
    "css/react-grid-layout-styles.css": ("react-grid-layout/-/react-grid-layout-0.16.3.tgz", "package/css/styles.css"),
}
REGISTRY = "https://registry.npmjs.org"


@config()
class ServeConfig:
    """A Visdom server on this machine."""

    port: Annotated[int, Flag("port to listen on", at_least=1, at_most=65535)] = 8097
    env_path: Annotated[str, Flag("folder to store environments in")] = os.path.join("~", ".visdom")
    assets: Annotated[
        str, Flag("folder with the page's scripts (jquery.min.js, ...), for use without access to the npm registry")
    ] = ""
    public: Annotated[
        bool, Flag("listen on all interfaces; requires a login in VISDOM_USERNAME and VISDOM_PASSWORD")
    ] = False


@config()
class ReplayConfig:
    """A recording to replay."""

    file: Annotated[str, Flag("file written by --visdom_log", required=True)] = ""


def static_folder(cache: str) -> str:
    """The folder in `cache` with the page of the installed Visdom, whose own folder may be read-only.

    Files that are missing there, or have another size, are copied from the package.
    ConfigError: Visdom is not installed. DataError: the cache cannot be written to.
    """
    try:
        import visdom
    except ImportError as error:
        raise ConfigError(PACKAGE) from error
    package = os.path.join(os.path.dirname(visdom.__file__), "static")
    static = os.path.join(cache, f"visdom-{getattr(visdom, '__version__', 'unknown')}")
    try:
        for base, _, names in os.walk(package):
            folder = os.path.normpath(os.path.join(static, os.path.relpath(base, package)))
            os.makedirs(folder, exist_ok=True)
            for name in names:
                source, path = os.path.join(base, name), os.path.join(folder, name)
                if not os.path.exists(path) or os.path.getsize(path) != os.path.getsize(source):
                    with open(source, "rb") as file:
                        storage.write_bytes(path, file.read(), sync=False)
    except OSError as error:
        raise DataError(
            f"{static}: the page of Visdom cannot be kept there ({error.strerror or error}); set XDG_CACHE_HOME to a "
            "folder that you can write to"
        ) from error
    return static


def install_assets(static: str, folder: str = "", registry: str = REGISTRY) -> list[str]:
    """Install missing ASSETS into `static`, from a folder or from the npm registry. Returns the installed names.

    DataError: a file is not available; the message states where to get it and how to name it.
    """
    done = []
    fetched: dict[str, bytes] = {}  # {package: archive}
    for name, (package, member) in ASSETS.items():
        path = os.path.join(static, name)
        if os.path.exists(path):
            continue
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if folder:
                with open(os.path.join(folder, os.path.basename(name)), "rb") as file:
                    content = file.read()
            else:
                if package not in fetched:
                    with urllib.request.urlopen(f"{registry}/{package}", timeout=60) as answer:
                        fetched[package] = answer.read()
                content = _member(fetched[package], member)
            storage.write_bytes(path, content)
        except (OSError, KeyError, tarfile.TarError) as error:
            raise DataError(
                f"{path}: missing, and not available from {folder or f'{registry}/{package}'} ({error}); "
                f"download {os.path.basename(member)} of that package as {os.path.basename(name)} "
                "and pass its folder as --assets"
            ) from error
        done.append(name)
    return done


def _member(archive: bytes, name: str) -> bytes:
    """The content of a file in a .tgz archive. KeyError: there is no such file."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        file = opened.extractfile(name)
        if file is None:
            raise KeyError(f"{name} is not a file")
        return file.read()


def serve(config: ServeConfig, environ: Mapping[str, str] = os.environ) -> None:
    """Run a Visdom server in this process until interrupted. ConfigError: --public without a login, or port in use."""
    username, password = environ.get("VISDOM_USERNAME", ""), environ.get("VISDOM_PASSWORD", "")
    if config.public and not (username and password):
        raise ConfigError("--public needs a login: set VISDOM_USERNAME and VISDOM_PASSWORD, or remove --public")
    static = static_folder(user_cache(environ))
    for name in install_assets(static, config.assets):
        print(f"installed {name}")
    from visdom.server.app import tornado_settings
    from visdom.server.run_server import start_server

    env_path = os.path.join(os.path.expanduser(config.env_path), "")
    os.makedirs(env_path, exist_ok=True)
    credential = _credential(username, password) if config.public else None
    where, console = "all interfaces, with a login" if config.public else "this machine only", sys.stdout

    def greet(port: int) -> None:  # called once it listens
        print(f"Visdom at http://localhost:{port} ({where}); stop with Ctrl-C", file=console, flush=True)

    # With autoreload, the server would restart and lose its windows whenever a source file changes
    tornado_settings.update(autoreload=False, serve_traceback=False, static_path=static, template_path=static)
    logging.disable(logging.ERROR)  # it logs errors for optional scripts
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # hides Visdom's own greeting
            start_server(
                config.port,
                base_url="",
                env_path=env_path,
                print_func=greet,
                bind_local=not config.public,
                user_credential=credential,
            )
    except OSError as error:
        raise ConfigError(f"--port {config.port}: {error.strerror}") from error


def _credential(username: str, password: str) -> dict[str, str]:
    """The server's login; its cookies are signed with a new secret."""
    from visdom.utils.server_utils import hash_password, set_cookie

    os.makedirs(os.path.expanduser("~/.visdom"), exist_ok=True)
    set_cookie(secrets.token_hex(32))
    return {"username": username, "password": hash_password(hash_password(password))}


def replay(config: ReplayConfig, visdom_config: VisdomConfig) -> None:
    """Send a recording of --visdom_log to a server."""
    if not os.path.isfile(config.file):
        raise DataError(f"{config.file or 'replay'}: no such file; name a file written by --visdom_log")
    client = connect(visdom_config)
    try:
        client.replay_log(config.file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{config.file}: not a file written by --visdom_log ({error})") from error
    environments = ", ".join(sorted(client.env_list))
    print(f"{config.file} shown at {_address(visdom_config)}, environments: {environments}")


def inspect(config: InspectConfig, visdom_config: VisdomConfig) -> NoReturn:
    """Show finished samples until interrupted."""
    inspector = Inspector(connect(visdom_config, listening=True), config)
    inspector.start()
    where = f"{_address(visdom_config)}/env/{visdom_config.visdom_env}"
    print(f"{len(inspector.names)} cases at {where}; stop with Ctrl-C", flush=True)
    while True:
        time.sleep(1)


def _address(config: VisdomConfig) -> str:
    return f"{config.visdom_server}:{config.visdom_port}"
