"""The service's errors: a status, a type, a message, and the body that carries them."""

from __future__ import annotations

from typing import Final

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""What the service calls the error of each status."""

_MESSAGES: Final = {
    429: "This request would exceed your account's rate limit. Please try again later.",
    500: "Internal server error",
    529: "Overloaded",
}


class ApiError(Exception):
    """A request that is answered with an error: its HTTP status, and what is wrong with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @classmethod
    def on_demand(cls, status: int) -> ApiError:
        """The error that a test asked for, in the service's words where it has some."""
        return cls(status, _MESSAGES.get(status, f"Simulated error {status}"))

    def body(self, request_id: str) -> dict[str, object]:
        """The JSON that says so, of a response or of an ``error`` event in a stream."""
        fallback = "api_error" if self.status >= 500 else "invalid_request_error"
        error = {"type": TYPES.get(self.status, fallback), "message": self.message}
        return {"type": "error", "error": error, "request_id": request_id}


def invalid(message: str) -> ApiError:
    """A 400, the most frequent one."""
    return ApiError(400, message)
