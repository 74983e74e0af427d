"""The page as a server on this computer: its routes, and nothing that is reached from elsewhere."""

from __future__ import annotations

import socket
from functools import partial

import gradio
import uvicorn
from fastapi import FastAPI
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from unflinch.errors import ConfigError, RunFolderError
from unflinch.run_folder import REPORT
from unflinch.web.local_only import LocalOnly
from unflinch.web.page import HEAD, STYLE_SHEET, build_page, style_sheet, theme
from unflinch.web.runs import Runs
from unflinch.web.speaker import Speaker

ADDRESS = "127.0.0.1"

_REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; base-uri 'none'"
)
"""A report may come from a stranger's run folder: it is shown, and nothing in it runs or loads."""


def open_port(port: int) -> socket.socket:
    """Return a listening socket that only this computer reaches.

    Args:
        port: 0 takes any free one.

    Raises:
        ConfigError: if the port is taken, or not ours to take.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen()  # a browser that is faster than the page waits for it
    except OSError as error:
        listening.close()
        raise ConfigError(f"port {port} cannot be used ({error.strerror}); give another --port") from error
    return listening


def build_app(runs: Runs, first: str, speaker: Speaker, port: int) -> ASGIApp:
    """Return the page with its routes behind the guard.

    Args:
        runs: the runs to choose from.
        first: name of the one to begin with.
        speaker: answers.
        port: where it is served.
    """
    app = FastAPI(openapi_url=None)

    @app.get("/runs/{name}/" + REPORT)
    def report(name: str) -> Response:
        try:
            file = runs.folder(name) / REPORT
        except RunFolderError as error:
            return PlainTextResponse(str(error), status_code=404)
        if not file.is_file():
            return PlainTextResponse(f"no {REPORT}; make it with: unflinch report {file.parent}", status_code=404)
        return FileResponse(file, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY})

    @app.get(STYLE_SHEET)
    def style() -> Response:
        return Response(style_sheet(), media_type="text/css")

    page = build_page(runs, first, speaker)
    gradio.mount_gradio_app(
        app, page, "/", footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, server_name=ADDRESS, server_port=port, theme=theme(), head=HEAD,
    )  # fmt: skip
    return LocalOnly(app, port)


def make_server(runs: Runs, first: str, speaker: Speaker, port: int) -> uvicorn.Server:
    """Return the server of `build_app`; its `run` takes the socket of `open_port`, and returns on Ctrl-C."""
    # A factory, called in the server's event loop: outside of one, gradio makes loops of its own and closes none.
    app = partial(build_app, runs, first, speaker, port)
    config = uvicorn.Config(
        app,
        factory=True,
        log_level="warning",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,  # an open page holds its connection for ever
    )
    return uvicorn.Server(config)
