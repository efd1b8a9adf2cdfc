"""A hub on this machine: what huggingface_hub asks of one, for a few files. Remembers what it was asked."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


class LocalHub:
    """files: {"owner/name": {path: bytes}}; changed at will. large: files of at least so many bytes are known by their
    sha256, smaller ones by git's hash, as on the hub. cut: a longer body breaks off after so many bytes, and all
    bodies that follow are refused, until `mend`; or, if it `stalls`, it stands still there until then.
    says: {path: sha256}, where it lies about a file.
    asked: "METHOD path" and the Range of every request, in order. elsewhere: large files are referred to another host,
    as the public hub does; tokens: what each request brought along, by its path.
    """

    def __init__(self, files, large=1000):
        self.files, self.large = files, large
        self.cut: int | None = None
        self.broken = self.stalls = False
        self._mended = threading.Event()
        self.gated: set[str] = set()
        self.says: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.elsewhere = False
        self.tokens: dict[str, str | None] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub._answer(self, body=False)

            def do_GET(self):
                hub._answer(self, body=True)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request, body):
        self.asked.append((f"{request.command} {request.path}", request.headers.get("Range")))
        self.tokens[request.path] = request.headers.get("Authorization")
        asked = re.fullmatch(r"/([^/]+)/([^/]+)/(resolve|store)/([^/]+)/(.+)", request.path)
        if asked is None:  # another word of the hub's interface
            return self._refuse(request, 404, "")
        owner, repository, place, revision, path = asked.groups()
        name = f"{owner}/{repository}"
        if name in self.gated:
            return self._refuse(request, 403, "GatedRepo")
        if name not in self.files:
            return self._refuse(request, 404, "RepoNotFound")
        data = self.files[name].get(path)
        if data is None:
            return self._refuse(request, 404, "EntryNotFound")
        if body and self.broken:
            return self._refuse(request, 503, "")
        if self.elsewhere and place == "resolve" and len(data) >= self.large:
            request.send_response(302)
            there = request.path.replace("/resolve/", "/store/")
            request.send_header("Location", self.url.replace("127.0.0.1", "localhost") + there)
            request.send_header("X-Repo-Commit", COMMIT)
            request.send_header("X-Linked-ETag", f'"{self._etag(data)}"')
            request.send_header("X-Linked-Size", str(len(data)))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return None
        given = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(given[1]) if given and body else 0
        request.send_response(206 if given and body else 200)
        if given and body:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("X-Repo-Commit", COMMIT if revision == "main" else revision)
        request.send_header("ETag", f'"{self.says.get(path) or self._etag(data)}"')
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if not body:
            return None
        if self.cut is not None and len(data) - start > self.cut:
            request.wfile.write(data[start : start + self.cut])
            request.wfile.flush()
            request.close_connection = True
            if self.stalls:
                self._mended.wait()
            else:
                self.broken = True
        else:
            request.wfile.write(data[start:])
        return None

    def mend(self):
        self.cut, self.broken, self.stalls = None, False, False
        self._mended.set()

    def _etag(self, data):
        if len(data) >= self.large:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @staticmethod
    def _refuse(request, status, code):
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()
