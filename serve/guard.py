"""What stands before the routes: API keys, the host header, the size of a body, the last catch of errors."""

import logging
import traceback
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError, error_response
from serve.keys import is_valid

_logger = logging.getLogger("ray.serve")
# The page holds no data; health and readiness are asked by load balancers, which have no key.
OPEN_PATHS = frozenset({"/", "/health", "/ready"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Access:
    """Who may ask for what.

    Args:
        key_digests: SHA-256 of each API key; none: no key is asked for.
        loopback_only: Answer only to loopback names, so that a web site whose name resolves to this machine
            (DNS rebinding) cannot read through a visitor's browser.
        max_body_bytes: Most bytes of a body.
    """

    key_digests: tuple[str, ...]
    loopback_only: bool
    max_body_bytes: int


class Guard:
    """ASGI middleware that refuses before a route reads anything, and turns every failure into JSON.

    Args:
        app: What is guarded.
        access: Who may ask for what.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
            }
            self._check(scope["method"], scope["path"], headers)
            await self.app(scope, self._bounded(receive), watched_send)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 -- the last catch
            # Never the message of the error: it may quote a text.
            _logger.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if not has_begun:
                refused = ApiError(500, "the server failed; its log has the trace", code="internal_error")
                await error_response(refused)(scope, receive, send)

    def _check(self, method: str, path: str, headers: dict[str, str]) -> None:
        if self.access.loopback_only and _host(headers.get("host", "")) not in _LOOPBACK_NAMES:
            raise ApiError(421, "this server answers on the loopback address only", code="wrong_host")
        if (
            self.access.key_digests
            and path not in OPEN_PATHS
            and not is_valid(headers.get("authorization"), self.access.key_digests)
        ):
            raise ApiError(401, "no valid API key; send the header Authorization: Bearer KEY")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.access.max_body_bytes:
            raise self._too_large()
        # Anything else could be sent by a form on a foreign web page without the browser asking first.
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and media != "application/json":
            raise ApiError(415, "send the header Content-Type: application/json")

    def _bounded(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.access.max_body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is over {self.access.max_body_bytes} bytes; send fewer texts a request"
        )


def _host(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
