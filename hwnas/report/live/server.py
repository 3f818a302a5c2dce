"""A server that shows runs while they are being written; it answers GET alone and writes nothing.

It listens on the loopback unless another interface is named. The address has a random token, without which nothing is
shown, and the `Host` header must name this server, so that no page of another site can read it through a name that it
points here.
"""

import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
import socket
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from urllib.parse import urlsplit

from hwnas.errors import HwnasError, InputError
from hwnas.report.gather import gather
from hwnas.report.live.state import StateReader
from hwnas.report.live.views import SearchView, open_view
from hwnas.report.page import STYLE, render

LOOPBACK = "127.0.0.1"

_log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
"""Time that a client has to send its request."""
_SEND_S = 300.0
"""Time that an answer may take to arrive."""

_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ANY_HOST = ("0.0.0.0", "::")

_HTML, _SCRIPT, _STYLE = "text/html", "text/javascript", "text/css"


class Answer(NamedTuple):
    """The body of an answer."""

    kind: str
    body: bytes
    scripts: str = "'self'"
    """The scripts that the page may run, as in a content security policy."""


class LiveServer(ThreadingHTTPServer):
    """Serves the live view of runs.

    Args:
        runs: Runs of searches and trainings, and profiles.
        host: The address to listen on.
        port: 0: any free one.
        token: The part of the address that its reader must know; None: a random one.

    Raises:
        InputError: A folder is no run, or the address cannot be listened on.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[Path], *, host: str = LOOPBACK, port: int = 0, token: str | None = None) -> None:
        views = [open_view(path) for path in runs]
        self.token = token or secrets.token_urlsafe(16)
        self._searches = [view.path for view in views if isinstance(view, SearchView)]
        self._reader, self._reading = StateReader(views), Lock()
        self._host = host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            hint = "another --port, or none for one that is free"
            raise InputError(f"{host}:{port} cannot be listened on", got=error.strerror, hint=hint) from error

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what ended an answer; a reader that went away is no error."""
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            _log.debug("the reader went away: %s", error)
        else:
            _log.error("an answer failed", exc_info=error)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The address of the page."""
        host = socket.gethostname() if self._host in _ANY_HOST else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self.token}/"

    def accepts_host(self, header: str | None) -> bool:
        """Return True if a `Host` header names this server, rather than a name that somebody else points to it."""
        try:
            name = (urlsplit(f"//{header or ''}").hostname or "").casefold()
        except ValueError:  # an open bracket
            return False
        if name in {self._host.casefold(), "localhost", "127.0.0.1", "::1"}:
            return True
        return self._host in _ANY_HOST and (name == socket.gethostname().casefold() or _is_address(name))

    def answer(self, path: str) -> Answer | None:
        """Return the answer to a path, or None if there is nothing."""
        first, _, rest = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(first.encode(), self.token.encode()):
            return None
        make = self._answers().get(rest)
        return None if make is None else make()

    def _answers(self) -> Mapping[str, Callable[[], Answer]]:
        answers: dict[str, Callable[[], Answer]] = {
            "": lambda: Answer(_HTML, _asset("live.html")),
            "live.css": lambda: Answer(_STYLE, _asset(STYLE) + _asset("live.css")),
            "live.js": lambda: Answer(_SCRIPT, _asset("live.js")),
            "plotly.js": lambda: Answer(_SCRIPT, _plotly()),
            "state.json": self._state,
        }
        if self._searches:
            answers["report.html"] = self._report
        return answers

    def _state(self) -> Answer:
        with self._reading:
            values = {"runs": self._reader.read(), "report": bool(self._searches)}
        return Answer("application/json", json.dumps(values, allow_nan=False).encode())

    def _report(self) -> Answer:
        """Return the page of a report as it would be written now."""
        with self._reading:
            page = render([gather(path) for path in self._searches])
        return Answer(_HTML, page.encode(), scripts=_script_hashes(page))


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    timeout = _TIMEOUT_S
    server_version, sys_version = "hwnas", ""

    def do_GET(self) -> None:
        if not self.server.accepts_host(self.headers.get("Host")):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        try:
            answer = self.server.answer(urlsplit(self.path).path)
        except (HwnasError, ValueError) as error:
            _log.warning("%s", error)
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if answer is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._send(HTTPStatus.OK, answer)

    def _refuse_method(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _refuse(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        self.close_connection = True  # what else the client has sent is not read
        self._send(status, Answer("text/plain", f"{status.phrase}\n".encode()), headers)

    def _send(self, status: HTTPStatus, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        policy = {"Content-Security-Policy": _POLICY.format(scripts=answer.scripts)}
        self.send_response(status)
        for name, value in {**_HEADERS, **policy, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.connection.settimeout(_SEND_S)  # the library of the plots has megabytes
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *values: object) -> None:
        """Log nothing of a request: its path has the token."""


@cache
def _asset(name: str) -> bytes:
    return (files("hwnas.report") / "assets" / name).read_bytes()


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).encode()


def _script_hashes(page: str) -> str:
    """Return the scripts of a page as sources of a content security policy, which then admits no other."""
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digests = (b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
