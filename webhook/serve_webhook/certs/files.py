"""A certificate of another issuer, such as cert-manager: from a mounted Secret, read again when it changes."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import NoReturn

from cryptography import x509

from serve_webhook.certs import authority
from serve_webhook.metrics import Metrics

POLL_SECONDS = 5.0
"""Between two checks. The kubelet replaces a symbolic link; there is no event."""

logger = logging.getLogger(__name__)


class CertificateFiles:
    """This replica's certificate: ``tls.crt``, with intermediate ones behind it, and ``tls.key`` of a folder."""

    def __init__(self, folder: Path, context: ssl.SSLContext, metrics: Metrics) -> None:
        self._folder = folder
        self._context = context
        self._metrics = metrics
        self._seen: bytes | None = None
        self._fault = ""
        self.loaded = asyncio.Event()

    async def run(self) -> NoReturn:
        """Load the certificate, and follow its changes, until cancelled."""
        while True:
            try:
                self._load()
                self._fault = ""
            except (OSError, ValueError) as error:  # a failure of TLS is an OSError
                if str(error) != self._fault:
                    self._fault = str(error)
                    logger.error("The certificate in %s cannot be used: %s", self._folder, error)
            await asyncio.sleep(POLL_SECONDS)

    def _load(self) -> None:
        """Raises OSError or ValueError for files that cannot be used; the last certificate then stays."""
        chain, key = (self._folder / "tls.crt").read_bytes(), (self._folder / "tls.key").read_bytes()
        if chain + key == self._seen:
            return
        leaf = x509.load_pem_x509_certificates(chain)[0]
        # The kubelet can replace the files between the two reads. A context that fails has half of both.
        authority.load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain, key)
        authority.load_chain(self._context, chain, key)
        self._seen = chain + key
        self._metrics.certificate_expiry.set(leaf.not_valid_after_utc.timestamp())
        self.loaded.set()
        logger.info("Serving the certificate in %s, which ends on %s.", self._folder, leaf.not_valid_after_utc.date())
