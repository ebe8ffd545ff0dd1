"""One HTTP request to a model, by a given way to its ingress."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from kubectl_serve.errors import ServeError
from kubectl_serve.predict import ingress
from kubectl_serve.predict.ingress import Way
from serve_core.base.json import JsonObject
from serve_kube import errors

if TYPE_CHECKING:
    from aiohttp import ClientResponse

_MAX_LINE = 1 << 20
"""Bytes of one event of a streamed answer."""
_ACCEPT = "application/json, text/event-stream"
_Received = TypeVar("_Received")


class InterruptedRequestError(ServeError):
    """The server was reached, but did not answer completely."""


async def exchange(
    url: str, path: str, body: JsonObject | None, way: Way, receive: Callable[["ClientResponse"], Awaitable[_Received]]
) -> _Received:
    """POST the body, or GET where there is none. Raises ServeError."""
    import aiohttp

    parts = urlsplit(url)
    address = f"[{way.host}]" if ":" in way.host else way.host
    # The connection goes to the way's address; the URL's host is in the Host header and in TLS.
    target = f"{parts.scheme}://{address}:{way.port}/{path.lstrip('/')}"
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0), read_bufsize=_MAX_LINE
            ) as session,
            session.request(
                "GET" if body is None else "POST",
                target,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Host": parts.netloc, "Content-Type": "application/json", "Accept": _ACCEPT},
                server_hostname=parts.hostname if parts.scheme == "https" else None,
                allow_redirects=False,
            ) as response,
        ):
            return await receive(response)
    except aiohttp.ClientConnectorCertificateError as error:
        raise ServeError(
            f"the certificate of {parts.hostname} is not trusted: {error.certificate_error}.",
            "SSL_CERT_FILE names a file of certificate authorities to trust.",
        ) from error
    except BrokenPipeError:  # of standard output; aiohttp has its own errors
        raise
    except aiohttp.ClientConnectorError as error:
        raise ServeError(
            f"{way.host}:{way.port} cannot be reached: {errors.connection_reason(error.os_error)} ({way.how}).",
            f"-v shows the connection path; --ingress URL or {ingress.ENVIRONMENT} sets another ingress.",
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise InterruptedRequestError(
            f"the request failed: {error} ({way.how}).", "Try again; -v shows the connection path."
        ) from error


async def metadata(url: str, path: str, way: Way, body: JsonObject | None = None) -> object:
    """The server's metadata of its model or models; None if it has none, as many servers.

    Raises ServeError if it cannot be reached.
    """

    async def receive(response: "ClientResponse") -> object:
        return json.loads(await response.read()) if response.status == HTTPStatus.OK else None

    try:
        return await exchange(url, path, body, way, receive)
    except (InterruptedRequestError, ValueError, RecursionError):
        return None
