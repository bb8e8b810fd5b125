"""A local HTTP server that stands in for the Hugging Face Hub: the requests that huggingface_hub makes to download."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "8a5f3f5dd8ae0e1f6d1b6c3c9a3f3b4e5d6c7b8a"


class Hub:
    """A server in a thread of its own, for a `with` statement.

    models   {"OWNER/NAME": {file: content}}
    gated    names of models whose access is restricted
    silent   ask for a name and a password for unknown names, as the Hub does, in place of saying that they do not exist
    fetched  the paths of the requests, "GET /..."
    """

    def __init__(self, models, gated=(), silent=True):
        self.models, self.gated, self.silent, self.fetched = models, gated, silent, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, folder):
        """Environment variables of a program that uses this Hub, with its cache in the folder."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "XDG_CACHE_HOME": str(folder),
        }

    def answer(self, path):
        """(status, headers, content) of a request."""
        match = re.match(r"/(?:api/models/)?([^/]+/[^/]+)/?(.*)", path.partition("?")[0])
        name, rest = match[1], match[2]
        if name in self.gated:
            return error(403, "GatedRepo", f"Access to model {name} is restricted.")
        if name not in self.models:
            unknown = ("", "Invalid username or password.") if self.silent else ("RepoNotFound", "Repository not found")
            return error(401 if self.silent else 404, *unknown)
        files = self.models[name]
        revision = re.match(r"(?:revision|tree|resolve)/([^/]+)", rest)
        if revision and revision[1] not in ("main", "v1", COMMIT):
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision[1]}")
        if not path.startswith("/api/"):
            file = rest.split("/", 2)[2]
            if file not in files:
                return error(404, "EntryNotFound", "Entry not found")
            headers = {"ETag": f'"{digest(files[file])}"', "X-Repo-Commit": COMMIT}
            return 200, headers, files[file]
        if rest.startswith("tree/"):
            found = [{"type": "file", "path": f, "size": len(c), "oid": digest(c)} for f, c in files.items()]
        else:
            found = {"_id": "0", "id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


def digest(content):
    return hashlib.sha1(content).hexdigest()


def error(status, code, message):
    return status, {"X-Error-Code": code, "X-Error-Message": message}, json.dumps({"error": message}).encode()


def model_of(folder):
    """The files of a model folder {name: content}, and two others of a repository of the Hub."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, ".gitattributes": b"*.safetensors filter=lfs", "run.py": b"raise SystemExit('executed')"}


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self, with_content):
            hub.fetched.append(f"{self.command} {self.path}")
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(content)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def do_GET(self):
            self.respond(True)

        def do_HEAD(self):
            self.respond(False)

        def log_message(self, *arguments):
            pass

    return Handler
