"""TLS over a socket, for high throughput.

The ssl module's socket reads each record of 16 KiB with two system calls, and releases the interpreter's lock for them.
Threads then wait for the lock more than they decrypt (docs/benchmarks/loader.md). Here one system call reads all
available bytes, and their records are decrypted one after the other.
"""

import contextlib
import socket
import ssl
from typing import cast

from model_loader.outcomes import Code, LoadError

_CHUNK = 256 << 10
"""Maximum bytes of one read from the socket."""


def context(certificates: str) -> ssl.SSLContext:
    """Return the settings that trust the system's authorities and `certificates`, PEM text. Raises LoadError."""
    found = ssl.create_default_context()
    if certificates:
        try:
            found.load_verify_locations(cadata=certificates)
        except (ssl.SSLError, ValueError):
            why = "the certificate authorities of the Secret are not PEM certificates"
            raise LoadError(Code.INVALID_SOURCE, why) from None
    return found


class TlsSocket:
    """The client's side of a connection, with the methods of `http1.Socket`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Take over `sock` and do the handshake. Raises OSError; LoadError(Refused) for an untrusted certificate."""
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
                # Send the server the alert with the reason. The connection may be closed already.
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
        """Read at least one byte into `view` and return the count; 0 at the end of the connection."""
        count = 0
        while count < len(view):
            try:
                read = cast(int, self._tls.read(len(view) - count, view[count:]))
            except ssl.SSLWantReadError:
                if count:
                    break
                self._send()  # the response to a key update
                self._receive()
                continue
            except ssl.SSLEOFError:
                # The connection ended without TLS' own end: the data may be truncated.
                if count:
                    break
                raise
            if not read:
                break
            count += read
        return count

    def shutdown(self, how: int) -> None:
        """Shut the connection down, even while another thread uses it."""
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
