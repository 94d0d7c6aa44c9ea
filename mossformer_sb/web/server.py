"""Serving the page without requests to other servers, and deleting all temporary files."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.inference.serving import Limits, check_port
from mossformer_sb.web import check_web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fastapi import FastAPI

    from mossformer_sb.web.visits import Visits

logger = logging.getLogger(__name__)

# Read by Gradio and huggingface_hub when they are imported.
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# The browser loads the page's resources only from this server.
_POLICY = "; ".join(
    (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
        "connect-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
_SECURITY_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Arguments
    ---------
    models : tuple of str
        Folders of exported models, or names of released ones; the packaged model is added, if there is one.
    host : str
        Address to listen on; "0.0.0.0": all interfaces.
    port : int
        Port to listen on; 0: any free one.
    device : str
        As for `mossformer_sb.inference.MossFormerSeparation.from_hparams`.
    max_minutes : float
        Longest accepted recording.
    max_megabytes : int
        Largest accepted file.
    keep_minutes : float
        Time after which files are deleted, including those of open pages.
    listed_only : bool
        Whether visitors can only choose from the listed models, as always where other machines reach the server.
        Behind a proxy on the same machine, every visitor seems to be local.

    Raises
    ------
    InputError
        If a value is out of range.

    Example
    -------
    >>> Settings().is_local, Settings(host="0.0.0.0").is_local
    (True, False)
    """

    models: tuple = ()
    host: str = "127.0.0.1"
    port: int = 7860
    device: str = "auto"
    max_minutes: float = 10.0
    max_megabytes: int = 200
    keep_minutes: float = 60.0
    listed_only: bool = False

    def __post_init__(self):
        _ = self.limits  # checks its numbers
        if not self.keep_minutes > 0:
            raise InputError(f"keep_minutes must be greater than 0; found {self.keep_minutes}.")
        check_port(self.port)

    @property
    def limits(self) -> Limits:
        """`mossformer_sb.inference.serving.Limits` of a recording."""
        return Limits(megabytes=self.max_megabytes, minutes=self.max_minutes)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def any_model(self) -> bool:
        """Whether visitors may type other models than those of the list."""
        return self.is_local and not self.listed_only


def serve(settings: Settings, started: Callable = lambda address: None) -> None:
    """Serve the page until Ctrl+C or SIGTERM.

    Arguments
    ---------
    settings : Settings
    started : callable
        Called with the page's address when the server is ready.

    Raises
    ------
    InputError
        If a package or a model is missing, or the server can't listen on the address.
    """
    with _interruptible(), contextlib.suppress(KeyboardInterrupt), running(settings) as server:
        started(server.address)
        server.wait()


@contextlib.contextmanager
def _interruptible():
    """Context: the first termination signal raises KeyboardInterrupt; later ones don't interrupt the cleanup."""
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def interrupt(*_):
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[Server]:
    """Context: a `Server` in its own thread, whose files are deleted when the context ends."""
    check_web()
    from mossformer_sb.web.models import Models
    from mossformer_sb.web.visits import Visits

    models = Models(settings.models, settings.device, any_model=settings.any_model)
    for label in models.local_labels:
        models.load(label)  # so that errors are reported before the first visitor
    with _listening(settings.host, settings.port) as listener:
        visits = Visits(60 * settings.keep_minutes)
        try:
            threading.Thread(target=visits.sweep_until_closed, daemon=True).start()
            server = Server(_application(settings, models, visits), listener, visits)
            try:
                yield server
            finally:
                server.stop()
        finally:
            visits.close()


class Server:
    """A running uvicorn.

    Arguments
    ---------
    application : fastapi.FastAPI
    listener : socket.socket
        Bound socket, closed by `stop`.
    visits : mossformer_sb.web.visits.Visits
    """

    def __init__(self, application: FastAPI, listener: socket.socket, visits: Visits) -> None:
        import uvicorn

        self.visits = visits
        host, port = listener.getsockname()[:2]
        self.address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.05)

    def wait(self) -> None:
        """Wait until it is stopped, or the program is interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def stop(self) -> None:
        """Stop serving; requests are ended after two more seconds."""
        self._server.should_exit = True
        self._thread.join(10)


def _listening(host, port):
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"can't listen on {host}, port {port} ({error}). Choose another --port, 0 for any free one, or --host."
        ) from error
    return listener


def _application(settings, models, visits):
    """The FastAPI application: the page, and its files."""
    os.environ.update(_QUIET)
    os.environ["GRADIO_TEMP_DIR"] = str(visits.uploads)
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from mossformer_sb.web.page import PAGE_FILES, Page, theme

    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    application.add_middleware(_Headers)
    if settings.is_local:  # else any web page could reach it by DNS rebinding
        application.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", settings.host]
        )

    @application.get("/results/{token}/{name}")
    def result_file(token: str, name: str):
        path = visits.find(token, name)
        if path is None:
            raise HTTPException(404, "This file was deleted. Separate the recording again.")
        return FileResponse(path, headers={"cache-control": "no-store"})

    blocks = Page(models, visits, settings.limits, settings.is_local).build()
    return gr.mount_gradio_app(
        application,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=settings.limits.bytes,
        theme=theme(),
        css_paths=[PAGE_FILES["css"]],
        head=f"<script>{PAGE_FILES['js'].read_text(encoding='utf-8')}</script>",
    )


class _Headers:
    """ASGI middleware: sets headers that prevent requests to other servers, and refuses to fetch URLs.

    Gradio would fetch ``/gradio_api/file=https://...`` for any client.
    """

    def __init__(self, application):
        self.application = application

    async def __call__(self, scope: Mapping, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in _SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        if "file=http" in scope["path"].lower():
            from starlette.responses import PlainTextResponse

            await PlainTextResponse("Not here.", 403)(scope, receive, send_with_headers)
            return
        await self.application(scope, receive, send_with_headers)
