"""A stand-in for the Hugging Face hub: what `hf upload` asks of it, in memory, on this machine."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_LFS = (".safetensors", ".onnx")


class Hub(ThreadingHTTPServer):
    """Keeps what was committed."""

    def __init__(self) -> None:
        """Listen on any free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: list[str] = []
        self.files: dict[str, bytes] = {}  # as committed
        self.objects: dict[str, bytes] = {}  # large files by SHA-256

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        if path == "/api/repos/create":
            name = "/".join(filter(None, (json.loads(body).get("organization"), json.loads(body)["name"])))
            self.server.repositories.append(name)
            self._answer({"url": f"{self.server.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = {file["path"]: file["path"].endswith(_LFS) for file in json.loads(body)["files"]}
            files = [
                {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                for name, large in modes.items()
            ]
            self._answer({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}} for one in objects]
            found = [{**one, "actions": action} for one, action in zip(objects, actions, strict=True)]
            self._answer({"transfer": "basic", "objects": found})
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            self._answer({"id": "model", "sha": "0" * 40, "siblings": [], "private": False, "tags": []})
        elif self.path == "/api/whoami-v2":
            self._answer({"name": "user", "type": "user", "orgs": []})
        else:
            self.send_error(404)

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            self.send_error(400)
            return
        self.server.objects[oid] = content
        self._answer({})

    def _commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
        for line in lines:
            key, value = str(line["key"]), line["value"]
            if key == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
        self._answer({"commitUrl": f"{self.server.url}/a/b/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _answer(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A hub, until the block ends."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
