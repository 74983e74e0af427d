"""Keeps the page to this computer: who may ask, and what a browser may load for it."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")
HTTP_PORT = 80

PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
"""Content security policy of every page that states none of its own: nothing is loaded from elsewhere.

Gradio fills its templates in the browser, which takes `unsafe-inline` and `unsafe-eval`.
"""


class LocalOnly:
    """Middleware that refuses every request with another host or origin than this server's own.

    A page from elsewhere that has its own name resolve to this computer (DNS rebinding) sends its name as `Host`; one
    that calls the address itself sends its name as `Origin`.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        """Guard `app`, which is served at `port`."""
        self.app = app
        self.hosts = frozenset(f"{name}:{port}" for name in NAMES)
        if port == HTTP_PORT:  # browsers leave it out
            self.hosts |= frozenset(NAMES)
        self.origins = frozenset(f"http://{host}" for host in self.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it with status 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0] not in self.hosts or not self.origins.issuperset(origins):
            refusal = PlainTextResponse("Only pages of this server, on this computer, may ask it.\n", status_code=403)
            await refusal(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                guarded = MutableHeaders(scope=message)
                guarded.setdefault("content-security-policy", PAGE_POLICY)
                guarded["x-content-type-options"] = "nosniff"
                guarded["referrer-policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, send_guarded)
