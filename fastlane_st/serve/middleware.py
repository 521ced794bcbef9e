"""What stands before the application: logs and metrics, the key, and the limit of a body's size.

They are plain ASGI, outermost first: `Observed`, `KeyRequired`, `BodyLimited`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

from .errors import error_body
from .metrics import Metrics

logger = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 60
"""How long a client may take to send a body."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that logs and metrics tell apart: a client can make up others without end."""

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


async def send_error(
    send: Send, status: int, message: str, headers: Collection[tuple[bytes, bytes]] = ()
) -> None:
    """Sends an error as JSON."""
    body = json.dumps(error_body(message)).encode()
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


class Observed:
    """Logs and counts requests by method and path, without what they carry, and hides what goes wrong inside.

    Args:
        app: What answers.
        metrics: Counts requests.
        paths: Those that are told apart; all others are "other", for a client could put a text there.
    """

    def __init__(self, app: App, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *SECURITY_HEADERS]}
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except Exception as error:
            log_without_texts(error)
            if status:  # the answer has begun, and can't be another one
                raise ConnectionAbortedError from None
            await send_error(observed_send, 500, "the server failed: its log says where")
        finally:
            seconds = time.perf_counter() - begun
            path = scope["path"] if scope["path"] in self._paths else "other"
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.observe_request(method, path, status, seconds)
            logger.info("%s %s %d %.1f ms", method, path, status, 1e3 * seconds)


def log_without_texts(error: BaseException) -> None:
    """Logs an error's type and the lines that it came through; its message may hold a client's text."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = "".join(
        f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-12:]
    )
    logger.error("%s in%s", type(error).__name__, lines)


class KeyRequired:
    """Answers requests without the API key with status 401; `/health` needs none.

    The key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of HTTP's Basic
    authentication, with any user, which browsers ask for.
    """

    def __init__(self, app: App, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key is None or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] == "/health" or self._is_known(scope["headers"]):
            await self._app(scope, receive, send)
        else:
            challenge = (b"www-authenticate", b'Basic realm="fastlane", charset="UTF-8"')
            message = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
            await send_error(send, 401, message, [challenge])

    def _is_known(self, headers: Collection[tuple[bytes, bytes]]) -> bool:
        assert self._key is not None
        is_known = False
        for name, value in headers:
            given = given_key(name.lower(), value)
            is_known |= given is not None and hmac.compare_digest(given, self._key)
        return is_known


def given_key(name: bytes, value: bytes) -> bytes | None:
    """The key in a header, if it is one of those that carry it."""
    if name == b"x-api-key":
        return value
    if name != b"authorization":
        return None
    scheme, _, rest = value.partition(b" ")
    rest = rest.strip()
    if scheme.lower() == b"bearer":
        return rest
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(rest, validate=True).partition(b":")[2]
    except binascii.Error:
        return None


class BodyLimited:
    """Reads bodies before the application does, up to a size."""

    def __init__(self, app: App, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = [name.lower() for name, _ in scope.get("headers", ())]
        has_body = b"content-length" in names or b"transfer-encoding" in names
        if scope["type"] != "http" or not has_body:
            await self._app(scope, receive, send)
            return
        close = [(b"connection", b"close")]
        too_large = f"the body may have {self._max_bytes:,} bytes: send less at a time"
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(int(value) > self._max_bytes for value in lengths if value.isdigit()):
            await send_error(send, 413, too_large, close)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), BODY_SECONDS)
        except asyncio.TimeoutError:
            await send_error(
                send, 408, f"the body didn't come within {BODY_SECONDS} seconds", close
            )
            return
        if body is None:  # the client is gone
            return
        if len(body) > self._max_bytes:
            await send_error(send, 413, too_large, close)
            return
        is_read = False

        async def replayed() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replayed, send)

    async def _read(self, receive: Receive) -> bytearray | None:
        """The body, or the first bytes of one that is too large; None if the client went away."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_bytes or not message.get("more_body", False):
                return body
