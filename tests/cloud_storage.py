"""A fake of Cloud Storage's JSON API on this machine: what Beam's client and gcsfs ask of it, kept in memory."""

import base64
import email.parser
import functools
import hashlib
import json
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o(?:/(.+))?$")
TIME = "2026-01-01T00:00:00.000Z"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a client that went away: gcsfs asks for more of a file than is read of it."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class FakeStorage:
    """Serves until `close`.

    Attributes:
      objects: content by "bucket/name".
      refusal: an HTTP status and a message that every request is answered with, where it is set.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refusal: tuple[int, str] | None = None
        self._uploads: dict[str, tuple[str, bytes]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.address = f"http://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def describe(self, key: str) -> dict[str, Any]:
        content = self.objects[key]
        bucket, _, name = key.partition("/")
        return {
            "kind": "storage#object", "id": f"{key}/1", "name": name, "bucket": bucket, "size": str(len(content)),
            "generation": "1", "metageneration": "1", "etag": "CAE=", "timeCreated": TIME, "updated": TIME,
            "contentType": "application/octet-stream", "storageClass": "STANDARD",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(), "crc32c": checksum(content),
        }  # fmt: skip

    def list(self, bucket: str, prefix: str) -> dict[str, Any]:
        keys = sorted(key for key in self.objects if key.startswith(f"{bucket}/{prefix}"))
        return {"kind": "storage#objects", "items": [self.describe(key) for key in keys], "prefixes": []}

    def begin_upload(self, key: str) -> str:
        number = str(len(self._uploads))
        self._uploads[number] = (key, b"")
        return f"{self.address}/resumable/{number}"

    def continue_upload(self, number: str, content: bytes, content_range: str) -> tuple[int, Any, dict[str, str]]:
        key, before = self._uploads[number]
        content = before + content
        self._uploads[number] = (key, content)
        total = content_range.rpartition("/")[2]
        if total != "*" and len(content) >= int(total):
            self.objects[key] = content
            return 200, self.describe(key), {}
        return 308, b"", {"Range": f"bytes=0-{len(content) - 1}"} if content else {}


@functools.lru_cache(maxsize=64)
def checksum(content: bytes) -> str:
    import google_crc32c  # comes with [dataflow]

    return base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


def _handler(storage: FakeStorage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if storage.refusal:
                code, message = storage.refusal
                result: tuple[int, Any, dict[str, str]] = (code, {"error": {"code": code, "message": message}}, {})
            elif url.path.startswith("/upload/"):
                result = self.upload(url.path.split("/")[5], query, body)
            elif url.path.startswith("/resumable/"):
                result = storage.continue_upload(
                    url.path.rpartition("/")[2], body, self.headers.get("Content-Range", f"bytes */{len(body)}")
                )
            elif url.path.startswith("/batch"):
                result = self.batch(body)
            else:
                result = self.object(self.command, url.path, query)
            self.send(*result)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def send(self, code: int, body: Any, headers: dict[str, str]) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def upload(self, bucket: str, query: dict[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
            if query["uploadType"] == "resumable":
                name = query.get("name") or json.loads(body)["name"]
                return 200, b"", {"Location": storage.begin_upload(f"{bucket}/{name}")}
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary
            _, about, content, _ = body.split(b"--" + boundary.group(1).encode())
            line = b"\r\n" if about.startswith(b"\r\n") else b"\n"  # gcsfs ends lines otherwise than Google's client
            name = query.get("name") or json.loads(about.split(line * 2, 1)[1])["name"]
            if query.get("ifGenerationMatch") == "0" and f"{bucket}/{name}" in storage.objects:
                return 412, {"error": {"code": 412, "message": "conditionNotMet"}}, {}
            storage.objects[f"{bucket}/{name}"] = content.split(line * 2, 1)[1].removesuffix(line)
            return 200, storage.describe(f"{bucket}/{name}"), {}

        def object(self, method: str, path: str, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
            match = OBJECT.match(path)
            if not match:  # a bucket
                name = path.rpartition("/")[2]
                return 200, {"kind": "storage#bucket", "id": name, "name": name, "location": "US"}, {}
            bucket, name = match.groups()
            if name is None:
                return 200, storage.list(bucket, query.get("prefix", "")), {}
            key = f"{bucket}/{urllib.parse.unquote(name)}"
            if key not in storage.objects:
                return 404, {"error": {"code": 404, "message": f"No such object: {key}"}}, {}
            if method == "DELETE":
                del storage.objects[key]
                return 204, b"", {}
            if query.get("alt") != "media":
                return 200, storage.describe(key), {}
            return self.media(storage.objects[key])

        def media(self, content: bytes) -> tuple[int, Any, dict[str, str]]:
            headers = {"Content-Type": "application/octet-stream", "X-Goog-Hash": f"crc32c={checksum(content)}"}
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if not wanted:
                return 200, content, headers
            first, last = int(wanted.group(1)), min(len(content) - 1, int(wanted.group(2) or len(content) - 1))
            if first >= len(content):
                return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return 206, content[first : last + 1], headers

        def batch(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
            """Several small calls in one; each is answered."""
            head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
            answers = b""
            for part in email.parser.BytesParser().parsebytes(head + body).get_payload():
                call = part.get_payload()
                call = call if isinstance(call, str) else call[0].as_string()
                method, target, _ = call.strip().split("\n")[0].split(" ")
                url = urllib.parse.urlsplit(target)
                code, answer, _ = self.object(method, url.path, dict(urllib.parse.parse_qsl(url.query)))
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                answers += (
                    b"--answers\r\nContent-Type: application/http\r\nContent-ID: <response-%s>\r\n\r\n"
                    b"HTTP/1.1 %d OK\r\n"
                    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s\r\n"
                    % (part.get("Content-ID", "").strip("<>").encode(), code, len(content), content)
                )
            return 200, answers + b"--answers--", {"Content-Type": "multipart/mixed; boundary=answers"}

    return Handler
