"""TLS over a socket, for reading much.

The ssl module's own socket reads one record of 16 KiB by two system calls, without the interpreter's lock. Threads that
all take it back so often wait for each other more than they decrypt (docs/benchmarks/loader.md). Here one system call
takes what is there, and its records are decrypted one after the other.
"""

import contextlib
import socket
import ssl
from typing import cast

from model_loader.outcomes import Code, LoadError

_CHUNK = 256 << 10
"""Bytes that are taken from the socket at once."""


def context(certificates: str) -> ssl.SSLContext:
    """Return the settings that trust the system's authorities and, PEM text, `certificates`. Raises LoadError."""
    found = ssl.create_default_context()
    if certificates:
        try:
            found.load_verify_locations(cadata=certificates)
        except (ssl.SSLError, ValueError):
            why = "the certificate authorities of the Secret are not PEM certificates"
            raise LoadError(Code.INVALID_SOURCE, why) from None
    return found


class TlsSocket:
    """The client's side of a connection: what `http1.Connection` uses of a socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Take over `sock` and shake hands. Raises OSError, and LoadError(Refused) for a certificate."""
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._chunk = memoryview(bytearray(_CHUNK))
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
            except ssl.SSLError as error:
                # The server is to see the alert that says why; it may be gone already.
                with contextlib.suppress(OSError):
                    self._send()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise LoadError(
                        Code.REFUSED,
                        f"the certificate of {host} is not trusted: {error.verify_message}",
                        hint="Put the authority's certificate into the Secret as AWS_CA_BUNDLE (S3) or ca.crt.",
                    ) from None
                raise
            else:
                self._send()
                return

    def sendall(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError."""
        self._tls.write(data)
        self._send()

    def recv_into(self, view: memoryview) -> int:
        """Fill `view` with what is there, at least one byte, and return the count; 0 at the connection's end."""
        count = 0
        while count < len(view):
            try:
                read = cast(int, self._tls.read(len(view) - count, view[count:]))
            except ssl.SSLWantReadError:
                if count:
                    break
                self._send()  # the answer to a change of keys
                self._receive()
                continue
            except ssl.SSLEOFError:
                # Without TLS' own end: it may have been cut on the way.
                if count:
                    break
                raise
            if not read:
                break
            count += read
        return count

    def shutdown(self, how: int) -> None:
        """Shut the connection down, whichever thread uses it."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    def _receive(self) -> None:
        count = self._sock.recv_into(self._chunk)
        if count:
            self._incoming.write(self._chunk[:count])
        else:
            self._incoming.write_eof()
