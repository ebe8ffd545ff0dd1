"""A port of a pod on this machine, forwarded through the API server as ``kubectl port-forward`` does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError
from serve_kube.errors import ApiError

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def forwarded(cluster: Cluster, namespace: str, pod: str, port: int) -> AsyncIterator[int]:
    """A port on the loopback address that leads to a pod's port.

    Raises what the forwarding raised if the block fails with a ServeError or an ApiError.
    """
    failures: list[ServeError | ApiError] = []
    carrying: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            carrying.add(task)
        try:
            await cluster.forward(namespace, pod, port, reader, writer)
        except (ServeError, ApiError) as error:
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(carry, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    except (ServeError, ApiError) as error:
        # The request only knows that its connection ended; the forwarding knows the reason.
        raise failures[0] if failures else error from None
    finally:
        server.close()
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
