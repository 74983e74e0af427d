"""An OpenAI-compatible endpoint on this computer that says what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Respond = Callable[[BaseHTTPRequestHandler, int], None]
"""Gets the open connection and the number of the request, from 0, and answers it, or does not."""


@dataclass
class Endpoint:
    """Where it listens, and what it was asked."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    leaving: threading.Event = field(default_factory=threading.Event)
    """Set at the end, so that a reply that stalls does not outlive the test."""


def reply(connection: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Send a whole reply."""
    connection.send_response(status)
    for name, value in headers.items():
        connection.send_header(name, value)
    connection.send_header("Content-Length", str(len(body)))
    connection.end_headers()
    connection.wfile.write(body)


def completion(content: object) -> bytes:
    """A chat completion with this content."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def says(*contents: object) -> Respond:
    """Answer one after the other with these contents, the last one again and again."""

    def respond(connection: BaseHTTPRequestHandler, number: int) -> None:
        reply(connection, completion(contents[min(number, len(contents) - 1)]))

    return respond


@contextmanager
def serving(respond: Respond) -> Iterator[Endpoint]:
    """Serve on a free port until the block is left."""
    found = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.paths.append(self.path)
            found.keys.append(self.headers.get("Authorization"))
            found.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            try:
                respond(self, len(found.bodies) - 1)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the judge has hung up, as it should

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.leaving.set()
        server.shutdown()
        thread.join()
        server.server_close()
