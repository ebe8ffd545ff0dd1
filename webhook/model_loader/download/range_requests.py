"""Range requests: opening the parts of a file at its source, and checking that each response fits the plan."""

import contextlib
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import unquote, urlsplit

from model_loader.download.file_state import UNKNOWN, FileState
from model_loader.http.transport import HttpResponse, Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import File
from model_loader.verify import checksums


class Reader(Protocol):
    """The bytes of one or more adjacent parts."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` from its start and return the number of bytes, 0 at the end."""

    def close(self) -> None:
        """Close what the bytes come from."""


class RangesIgnoredError(LoadError):
    """Ends a download: the server of `file` ignores Range and always sends whole files."""

    def __init__(self, file: File) -> None:
        super().__init__(
            Code.SERVER_ERROR,
            "the server ignores Range requests, so the loader reads whole files",
            hint="Downloads from a server that supports Range requests are faster and can resume.",
            file=file.path,
        )
        self.server = file.server

    @property
    def transient(self) -> bool:
        """False: the server would answer another range request in the same way."""
        return False


class RangeRequests:
    """Sends the requests of one download; safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def open(self, state: FileState, start: int, end: int, *, holds_hash: bool) -> Reader:
        """Request the bytes from `start` up to `end` (UNKNOWN: the file's end).

        `holds_hash`: whether the calling thread holds the lock of the file's hash.

        Raises LoadError: Changed when the file differs from the plan, RangesIgnoredError, and those of Transport.send.
        """
        file = state.file
        if file.url.startswith("file:"):
            stream = open(unquote(urlsplit(file.url).path), "rb", buffering=0)  # noqa: SIM115  # the worker closes it
            stream.seek(start)
            return stream
        headers: dict[str, str] = {}
        whole = (start, end) in ((0, file.size), (0, UNKNOWN))
        if not whole:
            headers["Range"] = f"bytes={start}-{end - 1}"
        if file.etag:
            headers["If-Match"] = file.etag
        response = self._get(state, headers)
        if _has_changed(state, response.headers, whole):
            raise LoadError(Code.CHANGED, f"{file.path} changed in the store during the download", file=file.path)
        if not whole and response.status == 200:
            raise RangesIgnoredError(file)
        if not whole and response.status != 206:
            raise LoadError(Code.SERVER_ERROR, f"the server answered {response.status} to a Range request")
        if not whole and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            raise LoadError(Code.SERVER_ERROR, "the server sent another range than the requested one")
        if whole and not state.checksum_known:
            with contextlib.nullcontext() if holds_hash else state.hash.lock:
                state.expect(checksums.from_headers(response.headers))
        return response.body

    def fetch_checksum(self, state: FileState) -> None:
        """Request the checksum of a file that is read in parts, whose responses do not have it. Raises LoadError."""
        response = self._transport.send("HEAD", state.file.url, {}, authorizer=state.file.authorizer)
        with state.hash.lock:
            if not state.checksum_known:
                state.expect(checksums.from_headers(response.headers))

    def _get(self, state: FileState, headers: Mapping[str, str]) -> HttpResponse:
        """Send the request to where the last one was redirected, which saves the hub one request for each part."""
        if state.redirect:
            try:
                return self._transport.get(state.redirect, headers)
            except LoadError as failure:
                # A signed URL expires: ask the hub for another one.
                if failure.status not in (400, 401, 403, 404, 410):
                    raise
        response = self._transport.get(state.file.url, headers, state.file.authorizer)
        elsewhere = response.url != state.file.url and urlsplit(response.url)[:2] != urlsplit(state.file.url)[:2]
        state.redirect = response.url if elsewhere else ""
        return response


def _has_changed(state: FileState, headers: Mapping[str, str], whole: bool) -> bool:
    """Return whether a response is about another version of the file than the plan or an earlier response."""
    file = state.file
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if (file.etag and etag and etag != file.etag) or (state.modified and modified != state.modified):
        return True
    state.modified = modified
    size = headers.get("content-length", "") if whole else headers.get("content-range", "").rpartition("/")[2]
    return file.size >= 0 and size.isdecimal() and int(size) != file.size
