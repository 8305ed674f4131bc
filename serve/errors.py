"""What an HTTP client sees when a request fails: OpenAI's nested form, for every status."""

import orjson
from fastapi.responses import Response

_CODES = {
    401: ("authentication_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "overloaded"),
    503: ("server_error", "not_ready"),
}


class ApiError(Exception):
    """Refuse a request.

    Args:
        status: HTTP status.
        message: What is wrong and what to send instead; never the texts of the request.
        param: The field of the body it concerns.
        code: Machine-readable; None means the usual one of the status.
        retry_after_s: Seconds to wait before trying again; sent as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, message, param, code, retry_after_s)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class OverloadError(ApiError):
    """Refuse a request because the queue is full.

    Args:
        queued_tokens: Tokens admitted and not yet answered.
        max_queued_tokens: The bound.
        retry_after_s: When the queue should have room again.
    """

    def __init__(self, queued_tokens: int, max_queued_tokens: int, retry_after_s: int) -> None:
        message = (
            f"the queue is full: {queued_tokens} of {max_queued_tokens} tokens are waiting; "
            f"try again in {retry_after_s} s"
        )
        super().__init__(429, message, retry_after_s=retry_after_s)
        # What pickle hands to __init__ again, unlike the five arguments of the class above.
        self.args = (queued_tokens, max_queued_tokens, retry_after_s)


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> Response:
    """Return ``error`` as an HTTP response.

    Args:
        error: What is refused.
        headers: Further headers, such as Allow.
    """
    fallback = "server_error" if error.status >= 500 else "invalid_request_error"
    kind, code = _CODES.get(error.status, (fallback, None))
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code or code}
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps({"error": body}), error.status, sent, "application/json")
