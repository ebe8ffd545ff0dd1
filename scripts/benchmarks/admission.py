"""What admission costs: an open-loop mix through the API server, with the webhooks and without, in one run."""

import argparse
import asyncio
import json
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

SIZES = {"4 KiB": 4 * 2**10, "256 KiB": 256 * 2**10, "2 MiB": 2 * 2**20}
SHARES = {"4 KiB": 0.94, "256 KiB": 0.05, "2 MiB": 0.01}
"""How often each size comes: people write few objects of two megabytes."""
MIX = {"allow": 0.7, "mutate": 0.2, "deny": 0.1}
"""allow: judged and let through; mutate: completed as well; deny: refused."""
SPACE = "default"


def body(kind: str, size: int, *, webhooks: bool) -> tuple[str, bytes]:
    """Path and body of a dry run. Without the webhooks it is the same object under an annotation that is not ours."""
    prefix = "kubectl-serve.dev" if webhooks else "not-kubectl-serve.dev"
    uri = "ftp://models/a.joblib" if kind == "deny" else "s3://models/a.joblib"
    container = {"name": "server", "image": "example.com/server:1"}
    used = len(json.dumps(container)) + 600
    container["env"] = [  # type: ignore[assignment]
        {"name": f"N{i}", "value": "v" * 1000} for i in range(max(0, (size - used) // 1030))
    ]
    labels = {"app": "bench"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bench", "namespace": SPACE, "annotations": {f"{prefix}/model": uri}},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    if kind == "allow":
        service = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "bench"}}
        if webhooks:
            return f"/apis/serving.knative.dev/v1/namespaces/{SPACE}/services", json.dumps(
                service | {"spec": {"template": {"spec": {"containers": [container]}}}}
            ).encode()
    return f"/apis/apps/v1/namespaces/{SPACE}/deployments", json.dumps(manifest).encode()


@asynccontextmanager
async def session() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session with the cluster that KUBECONFIG names, and its address."""
    configuration = Configuration()
    await config.load_kube_config(client_configuration=configuration)
    async with ApiClient(configuration) as client:
        headers = {"Content-Type": "application/json"}
        await client.update_params_for_auth(headers, [], ["BearerToken"], None)
        connector = client.rest_client.pool_manager.connector
        async with aiohttp.ClientSession(connector=connector, connector_owner=False, headers=headers) as made:
            yield made, str(configuration.host)


async def measure(rate: float, seconds: float, rng: random.Random) -> None:
    latencies: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    wrong: dict[str, int] = defaultdict(int)
    bodies = {(k, s, w): body(k, n, webhooks=w) for k in MIX for s, n in SIZES.items() for w in (True, False)}
    async with session() as (client, host):

        async def ask(kind: str, size: str, webhooks: bool) -> None:
            path, data = bodies[kind, size, webhooks]
            start = time.perf_counter()
            try:
                async with client.post(f"{host}{path}?dryRun=All", data=data) as response:
                    text = await response.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                wrong[type(error).__name__] += 1
                return
            latencies[kind, size, webhooks].append((time.perf_counter() - start) * 1000)
            refused = response.status >= 400
            if refused is not (kind == "deny" and webhooks):
                wrong[f"{kind}: HTTP {response.status} {text[:120]}"] += 1

        async with asyncio.TaskGroup() as group:
            begin, count = time.perf_counter(), int(rate * seconds)
            for index in range(count):
                # Open loop: the next one comes when its time has come, whatever became of those before.
                await asyncio.sleep(max(0.0, begin + index / rate - time.perf_counter()))
                (kind,) = rng.choices(list(MIX), list(MIX.values()))
                (size,) = rng.choices(list(SHARES), list(SHARES.values()))
                group.create_task(ask(kind, size, index % 2 == 0))
    report(rate, latencies, wrong)


def report(rate: float, latencies: dict[tuple[str, str, bool], list[float]], wrong: dict[str, int]) -> None:
    print(
        f"\n{rate:.0f} requests/s, half of them past the webhooks; milliseconds as a client of the API server sees them"
    )
    print(f"{'':22}{'with':>24}{'without':>24}{'added':>18}")
    print(f"{'':22}{'n':>8}{'p50':>8}{'p99':>8}{'n':>8}{'p50':>8}{'p99':>8}{'p50':>10}{'p99':>8}")
    rows = [(kind, size) for kind in MIX for size in SIZES]
    for kind, size in [*rows, ("all", "all")]:
        cells = []
        for webhooks in (True, False):
            found = [
                value
                for (k, s, w), values in latencies.items()
                if w is webhooks and (kind == "all" or (k, s) == (kind, size))
                for value in values
            ]
            cells.append((len(found), quantile(found, 0.5), quantile(found, 0.99)))
        (n, p50, p99), (m, q50, q99) = cells
        print(
            f"{kind + ' ' + size:22}{n:8}{p50:8.1f}{p99:8.1f}{m:8}{q50:8.1f}{q99:8.1f}{p50 - q50:10.1f}{p99 - q99:8.1f}"
        )
    print("not as expected: " + ("none" if not wrong else "; ".join(f"{n} x {what}" for what, n in wrong.items())))


def quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


async def usage(url: str) -> str:
    """CPU seconds and memory of a replica, from its metrics."""
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        text = await response.text()
    found = dict(re.findall(r"^process_(cpu_seconds_total|resident_memory_bytes) (\S+)$", text, re.MULTILINE))
    memory = float(found["resident_memory_bytes"]) / 2**20
    return f"{float(found['cpu_seconds_total']):.1f} s of CPU since its start, {memory:.0f} MiB"


async def run(args: argparse.Namespace) -> None:
    for rate in args.rates:
        await measure(rate, args.seconds, random.Random(7))  # noqa: S311
        for url in args.metrics:
            print(f"{url}: {await usage(url)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench admission", description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 200, 500], help="requests per second")
    parser.add_argument("--seconds", type=float, default=20, help="for each rate")
    parser.add_argument("--metrics", nargs="*", default=[], metavar="URL", help="/metrics of each replica")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
