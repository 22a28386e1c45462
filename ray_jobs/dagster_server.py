"""Dagster webserver for the browser of this machine: it refuses requests that another site's page makes it send.

``python -m ray_jobs.dagster_server`` takes the options of ``dagster-webserver``, which has no such check: a page of the web that
resolves its own host's name to 127.0.0.1 (DNS rebinding), or posts to this address, could launch runs.
"""

from urllib.parse import urlsplit

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_HOSTS = ["127.0.0.1", "localhost"]


class LocalOrigin:
    """ASGI middleware that answers 403 to what a page of another host sends, WebSockets included."""

    def __init__(self, next_app: ASGIApp) -> None:
        self._next_app = next_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        origin = Headers(scope=scope).get("origin") if scope["type"] in ("http", "websocket") else None
        if origin is not None and urlsplit(origin).hostname not in LOCAL_HOSTS:
            await PlainTextResponse(f"requests from {origin[:200]} are not answered", status_code=403)(
                scope, receive, send
            )
            return
        await self._next_app(scope, receive, send)


class LocalWebserver(DagsterWebserver):
    """Dagster's, behind the two checks."""

    def build_middleware(self) -> list[Middleware]:
        return [
            Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_HOSTS),
            Middleware(LocalOrigin),
            *super().build_middleware(),
        ]


if __name__ == "__main__":
    app.DagsterWebserver = LocalWebserver  # type: ignore[misc]  # what the command creates
    cli.main()
