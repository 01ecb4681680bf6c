"""A local server that misbehaves."""

import hashlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fairseq_scl.data.tasks import Download

GOOD = bytes(range(256)) * 2000


class Server(ThreadingHTTPServer):
    """Serves ``files`` and misbehaves according to ``faults``, one per request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.ranges, self.knows_ranges = {}, [], [], True

    def wanted(self, name, content=GOOD, served=None):
        """Serve a file and return the resource to request."""
        self.files[name] = content if served is None else served
        digest = hashlib.sha256(content).hexdigest()
        url = f"http://127.0.0.1:{self.server_address[1]}/{name}"
        return Download(url, len(content), digest)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        content = server.files[self.path.removeprefix("/")]
        start = 0
        if asked and server.knows_ranges:
            start = start_of(asked)
            self.send_response(206)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "truncated":
            body = body[: len(body) // 2]
        if fault == "slow":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(20)
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start_of(asked):
    return int(asked.removeprefix("bytes=").removesuffix("-"))
