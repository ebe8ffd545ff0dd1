"""A certificate of another issuer, in files."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from serve_webhook.admission import listener
from serve_webhook.certs import files
from serve_webhook.certs.authority import SERVER_NAMES
from serve_webhook.certs.files import CertificateFiles
from serve_webhook.metrics import Metrics
from support.waiting import until

AUTHORITY = trustme.CA()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "POLL_SECONDS", 0.01)


def issue(folder: Path, authority: trustme.CA = AUTHORITY, name: str = SERVER_NAMES[0]) -> None:
    """Write a certificate and its key, as a mounted Secret of type kubernetes.io/tls has them."""
    leaf = authority.issue_cert(name)
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    (folder / "tls.key").write_bytes(leaf.private_key_pem.bytes())


@asynccontextmanager
async def following(folder: Path, context: ssl.SSLContext, metrics: Metrics | None = None) -> AsyncIterator[None]:
    source = CertificateFiles(folder, context, metrics or Metrics())
    task = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(10):
            await source.loaded.wait()
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def shown(context: ssl.SSLContext, trusted: trustme.CA, name: str = SERVER_NAMES[0]) -> bool:
    """Whether a client that trusts an authority connects."""
    client = ssl.create_default_context(cadata=trusted.cert_pem.bytes().decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return near.version() is not None


async def test_the_certificate_is_served_and_its_end_is_measured(tmp_path: Path) -> None:
    issue(tmp_path)
    context, metrics = listener.tls_context(), Metrics()
    async with following(tmp_path, context, metrics):
        assert shown(context, AUTHORITY)
    assert b"kubectl_serve_certificate_expiry_timestamp_seconds 0.0" not in metrics.render()


async def test_a_certificate_of_an_intermediate_authority_is_served_with_that(tmp_path: Path) -> None:
    issue(tmp_path, AUTHORITY.create_child_ca())
    context = listener.tls_context()
    async with following(tmp_path, context):
        assert shown(context, AUTHORITY)


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    issue(tmp_path)
    other, context = trustme.CA(), listener.tls_context()
    async with following(tmp_path, context):
        issue(tmp_path, other)
        await until(lambda: shown(context, other))


async def test_files_that_do_not_fit_together_are_reported_once_and_the_last_certificate_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issue(tmp_path)
    context, other = listener.tls_context(), trustme.CA()
    key = (tmp_path / "tls.key").read_bytes()
    async with following(tmp_path, context):
        issue(tmp_path, other)
        new = (tmp_path / "tls.key").read_bytes()
        (tmp_path / "tls.key").write_bytes(key)
        await until(lambda: "cannot be used" in caplog.text)
        assert shown(context, AUTHORITY)
        (tmp_path / "tls.key").write_bytes(new)
        await until(lambda: shown(context, other))
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_missing_files_are_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = listener.tls_context()
    source = CertificateFiles(tmp_path, context, Metrics())
    task = asyncio.create_task(source.run())
    async with asyncio.timeout(10):
        await until(lambda: "No such file" in caplog.text)
        issue(tmp_path)
        await source.loaded.wait()
    task.cancel()
    await asyncio.wait([task])
    assert shown(context, AUTHORITY)
