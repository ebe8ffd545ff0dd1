"""Authorizers: what adds credentials to requests. Stores with a signature of their own define another one."""

import base64
import threading
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import SplitResult

from model_loader.outcomes import Code, LoadError

_IDENTITY_HINT = "Check the identity: the pod's service account, or the key in the Secret."


class Authorizer(Protocol):
    """Adds credentials to requests."""

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        """Add the headers that authorize this request."""

    def refresh(self) -> bool:
        """Fetch new credentials after a refusal, and return whether to repeat the request."""


class Anonymous:
    """Adds no credentials."""

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        """Add nothing."""

    def refresh(self) -> bool:
        """Return False: there are no credentials."""
        return False


ANONYMOUS = Anonymous()


class Header:
    """Authorizes with a constant Authorization header."""

    def __init__(self, value: str) -> None:
        """Raise LoadError(Unauthorized) for a value that no header can have."""
        if not (value.isascii() and value.isprintable()):
            message = "the token or password has a line break, or another character that no header can have"
            raise LoadError(Code.UNAUTHORIZED, message, hint="Correct the key of the Secret.")
        self._value = value

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        """Add the header."""
        headers["Authorization"] = self._value

    def refresh(self) -> bool:
        """Return False: the Secret does not change while the loader runs."""
        return False


def basic(login: str) -> Header:
    """Return the authorizer for a login: `user:password`. Raises LoadError(Unauthorized), as Header."""
    return Header(f"Basic {base64.b64encode(login.encode()).decode()}")


class Token:
    """Authorizes with a bearer token, fetched after the first refusal and again shortly before it expires."""

    def __init__(self, fetch: Callable[[], tuple[str, float]], *, required: bool = False) -> None:
        """`fetch` returns a token and its lifetime in seconds, or raises LoadError.

        `required`: fetch it before the first request.
        """
        self._fetch = fetch
        self._required = required
        self._value = ""
        self._until = 0.0
        self._lock = threading.Lock()

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        """Add the token, if there is one. Raises LoadError if the service gives no token."""
        with self._lock:
            if (self._value or self._required) and time.monotonic() > self._until:
                self._renew()
            if self._value:
                headers["Authorization"] = f"Bearer {self._value}"

    def refresh(self) -> bool:
        """Fetch a token, and return whether there is one. Raises LoadError(Unauthorized) if the service refuses."""
        with self._lock:
            try:
                self._renew()
            except LoadError as failure:
                if self._required or failure.status or failure.code is Code.UNAUTHORIZED:
                    raise
                return False  # there is no such service here
            return True

    def _renew(self) -> None:
        try:
            self._value, seconds = self._fetch()
        except LoadError as failure:
            if failure.transient or not failure.status:
                raise
            why = f"the identity service gave no token: {failure.message}"
            raise LoadError(Code.UNAUTHORIZED, why, hint=_IDENTITY_HINT) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise LoadError(Code.UNAUTHORIZED, "the platform's identity service gave no token") from None
        self._until = time.monotonic() + max(seconds - 60, 0)
