"""A hub of one repository on this machine, `me/net`, for the real library: `python hub_server.py FOLDER`.

It prints the port that it listens on, and every path that it is asked for.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The paths that `snapshot_download` asks for."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        print(self.path, flush=True)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/me/net/tree/"):
            self._json([{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)}
                        for file in FOLDER.iterdir()])  # fmt: skip
        elif path.startswith("/api/models/me/net"):
            files = [{"rfilename": file.name} for file in FOLDER.iterdir()]
            self._json({"id": "me/net", "sha": COMMIT, "private": False, "siblings": files})
        elif path.startswith("/me/net/resolve/") and (FOLDER / name).is_file():
            self._send(
                200, (FOLDER / name).read_bytes(), {"ETag": _digest(FOLDER / name), "X-Repo-Commit": COMMIT}
            )
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
