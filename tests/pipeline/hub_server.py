"""A Hugging Face hub for tests: one repository, of a dataset or a model, served from a folder on this machine."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Answers what `datasets` and `HfFileSystem` ask; `asked` holds the paths, `tokens` their Authorization headers.

    Args:
      folder: the repository's files.
      repository: its id, as "org/name"; every other one is unknown.
      kind: "datasets" or "models".
    """

    def __init__(self, folder: Path, repository: str, *, kind: str = "datasets"):
        super().__init__(("localhost", 0), _Handler)
        self.folder, self.repository, self.kind, self.asked = folder, repository, kind, list[str]()
        self.tokens = dict[str, str | None]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://localhost:{self.server_port}"

    def entries(self) -> list[dict[str, Any]]:
        """Files and folders, as the hub describes them."""
        return [
            {
                "type": "file" if path.is_file() else "directory",
                "path": str(path.relative_to(self.folder)),
                "size": path.stat().st_size if path.is_file() else 0,
                "oid": hashlib.sha1(path.read_bytes() if path.is_file() else b"").hexdigest(),
            }
            for path in sorted(self.folder.rglob("*"))
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        self.server.tokens[path] = self.headers.get("Authorization")
        repository, kind = re.escape(self.server.repository), self.server.kind
        files = "" if kind == "models" else f"/{kind}"
        if re.fullmatch(rf"/api/{kind}/{repository}(/revision/(main|{COMMIT}))?", path):
            names = [{"rfilename": entry["path"]} for entry in self.server.entries() if entry["type"] == "file"]
            self._json({"id": self.server.repository, "sha": COMMIT, "private": False, "siblings": names})
        elif match := re.fullmatch(rf"/api/{kind}/{repository}/tree/(?:main|{COMMIT})(?:/(.*))?", path):
            folder = Path(match[1] or ".")
            everything = "recursive=true" in self.path.lower()
            self._json(
                [
                    entry
                    for entry in self.server.entries()
                    if (folder in Path(entry["path"]).parents if everything else Path(entry["path"]).parent == folder)
                ]
            )
        elif match := re.fullmatch(rf"{files}/{repository}/resolve/(?:main|{COMMIT})/(.*)", path):
            self._file(self.server.folder / match[1])
        else:
            code = "RevisionNotFound" if repository.replace("\\", "") in path else "RepoNotFound"
            self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not found"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(f"POST {self.path}")
        wanted = json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]*)", unquote(body))
        self._json([entry for entry in self.server.entries() if entry["path"] in wanted])

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            self._answer(206, content[start : end + 1], headers)
        else:
            self._answer(200, content, headers)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
