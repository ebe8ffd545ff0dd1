"""The API server as benchmarks ask it, and what the server's replicas use meanwhile."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from serve_kube.access import Connection

CONNECTIONS = 64
SERVER = "/api/v1/namespaces/kubectl-serve/pods"


class RawConnection(asyncio.Protocol):
    """HTTP/1.1, one request at a time. Of an answer only the status and the end are read: what the generator spends is
    not there for what it measures."""

    LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)", re.IGNORECASE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._read, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._read += data
        head = self._read.find(b"\r\n\r\n")
        length = self.LENGTH.search(self._read, 0, max(0, head))
        if len(self._read) == head + 4 + int(length[1]) if length else self._read.endswith(b"\r\n0\r\n\r\n"):
            self._answer.set_result(self._read)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionError(str(error)))


class Client:
    """The API server, as KUBECONFIG says."""

    def __init__(self, session: aiohttp.ClientSession, host: str, context: ssl.SSLContext) -> None:
        self._session = session
        self._host = host
        self._context = context
        self._idle: list[RawConnection] = []

    def written(self, path: str, body: bytes) -> bytes:
        """A POST as :meth:`send` takes it."""
        own = {"Content-Type": "application/json", "Content-Length": len(body), "Accept-Encoding": "gzip"}
        headers = {"Host": URL(self._host).raw_authority, **self._session.headers, **own}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Returns the status, and the answer as it came. Raises ConnectionError."""
        self._idle = [connection for connection in self._idle if connection.is_open()]
        if self._idle:
            connection = self._idle.pop()
        else:
            url, loop = URL(self._host), asyncio.get_running_loop()
            host, port = str(url.host), int(url.port or 443)
            _, connection = await loop.create_connection(RawConnection, host, port, ssl=self._context)
        answer = await connection.ask(request)
        self._idle.append(connection)
        return int(answer[9:12]), answer

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        return await self.request("POST", path, body, {"Content-Type": "application/json"})

    async def request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        async with self._session.request(method, self._host + path, data=body, headers=headers) as answer:
            return answer.status, await answer.read()

    async def delete(self, path: str) -> None:
        await self.request("DELETE", path, b"", {})

    async def text(self, path: str) -> str:
        async with self._session.get(self._host + path) as answer:
            answer.raise_for_status()
            return await answer.text()


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    access = await Connection.of_kubeconfig()
    context = access.tls()
    if context is None:
        raise SystemExit("The API server has no TLS.")
    authorization = await access.authorization()
    headers = {"Authorization": authorization} if authorization else {}
    connector = aiohttp.TCPConnector(ssl=context, limit=2 * CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Client(session, access.host, context)


async def replicas(client: Client) -> list[str]:
    found = json.loads(await client.text(SERVER))["items"]
    return [pod["metadata"]["name"] for pod in found]


async def usage(client: Client, name: str) -> tuple[float, float]:
    """CPU seconds and resident bytes of a replica, from its metrics."""
    text = await client.text(f"{SERVER}/{name}:8080/proxy/metrics")
    found = dict(re.findall(r"^process_(cpu_seconds_total|resident_memory_bytes) (\S+)$", text, re.MULTILINE))
    return float(found["cpu_seconds_total"]), float(found["resident_memory_bytes"])
