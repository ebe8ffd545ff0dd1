"""What admission costs: an open-loop mix through the API server, with and without the webhooks, in one run.

Needs a cluster with kubectl-serve installed: eval "$(scripts/cluster env)". It scales the server to each number of
replicas, and back at the end. Every request is a dry run, which stores nothing.

Each cell alternates between blocks with the webhooks and blocks of the same objects under other annotations, at the
same rate. Open loop: a request is due at a set time, independent of earlier ones, and its latency counts from then. At
most CONNECTIONS requests wait for a response at once; others queue, and those still queued when their block ends are
never sent.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_client import CONNECTIONS, Client, connected, replicas, usage  # in this folder

SIZES = {"4 KiB": 4 * 2**10, "256 KiB": 256 * 2**10, "2 MiB": 2 * 2**20}
MIXED = {"4 KiB": 94, "256 KiB": 5, "2 MiB": 1}
"""How often each size occurs in the mix: people write few objects of two megabytes."""
MIX = {"allow": 70, "mutate": 20, "deny": 10}
"""allow: a complete Deployment that is written again; mutate: one to complete; deny: completed, then refused by a
policy. All of them pass the mutating webhook, and then the validating one.
"""
LATE = 0.01
"""A request that is sent this many seconds after its time counts as late."""
BLOCK = 3.0
"""Seconds of one block."""

NAMESPACE = "kubectl-serve-bench"
OURS, THEIRS = "kubectl-serve.dev/", "kubectl-serve.not/"
POLICY = {
    "apiVersion": "kubectl-serve.dev/v1alpha1",
    "kind": "ServingPolicy",
    "metadata": {"name": NAMESPACE},
    "spec": {
        "match": {"namespaces": [NAMESPACE]},
        "rules": [
            {"name": "places", "sources": {"deny": ["s3://forbidden"]}},
            {"name": "images", "images": {"allow": ["example.com", "dev.local"]}},
        ],
    },
}
WEBHOOKS = ("deployments.kubectl-serve.dev", "policies.kubectl-serve.dev")


@dataclass
class Arm:
    """The measurements in the blocks of one kind."""

    seconds: list[float] = field(default_factory=list)
    late: int = 0
    unsent: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    busy: list[float] = field(default_factory=list)
    api_server: float = 0.0
    """CPU seconds of the API server."""
    elapsed: float = 0.0

    def quantile(self, share: float) -> float:
        """The quantile in milliseconds."""
        if len(self.seconds) < 2:
            return float("nan")
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[round(share * 100) - 1] * 1000


@dataclass
class Server:
    """The replicas' resource usage while the webhooks are called."""

    cpu: float = 0.0
    elapsed: float = 0.0
    memory: float = 0.0
    """Peak bytes of the largest replica."""


def deployment(uri: str, size: int) -> dict[str, Any]:
    """Return an annotated Deployment of about that many bytes."""
    container = {"name": "server", "image": "example.com/server:1"}
    variables = [{"name": f"N{i}", "value": "v" * 1000} for i in range(max(0, (size - 800) // 1031))]
    variables.append({"name": "LAST", "value": "v" * max(0, (size - 800) % 1031)})
    labels = {"app": "bench"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container | {"env": variables}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bench", "namespace": NAMESPACE, "annotations": {f"{OURS}model": uri}},
        "spec": {"selector": {"matchLabels": labels}, "template": pod},
    }


PATH = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments?dryRun=All"


async def bodies(client: Client) -> dict[tuple[str, str], bytes]:
    """Return the requests by outcome and size."""
    found = {}
    for name, size in SIZES.items():
        mutate = json.dumps(deployment("s3://models/a.joblib", size)).encode()
        status, text = await client.post(PATH, mutate)
        if status != 201:
            raise SystemExit(f"a Deployment was not completed: HTTP {status} {text[:500]!r}")
        completed = json.loads(text)
        for key in ("uid", "creationTimestamp", "generation", "managedFields"):
            completed["metadata"].pop(key, None)
        completed.pop("status", None)
        found["mutate", name] = mutate
        found["allow", name] = json.dumps(completed).encode()
        found["deny", name] = json.dumps(deployment("s3://forbidden/a.joblib", size)).encode()
    return found


async def block(client: Client, arm: Arm, choices: list[tuple[str, bytes]], rate: float, denied: int) -> None:
    """Send one block of requests, one every 1/rate seconds."""
    turns = asyncio.Semaphore(CONNECTIONS)

    async def ask(kind: str, request: bytes, due: float) -> None:
        try:
            status, text = await client.send(request)
        except OSError as error:
            arm.wrong[type(error).__name__] += 1
            return
        finally:
            turns.release()
        arm.seconds.append(time.perf_counter() - due)
        if status != (denied if kind == "deny" else 201):
            arm.wrong[f"{kind}: HTTP {status} {text[-200:]!r}"] += 1

    before, spent = _machine(), await _api_server_seconds(client)
    begin = time.perf_counter()
    end = begin + len(choices) / rate
    async with asyncio.TaskGroup() as group:
        for index, (kind, request) in enumerate(choices):
            due = begin + index / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, end - time.perf_counter())):
                    await turns.acquire()
            except TimeoutError:
                arm.unsent += len(choices) - index
                break
            arm.late += time.perf_counter() - due > LATE
            group.create_task(ask(kind, request, due))
    arm.elapsed += time.perf_counter() - begin
    arm.busy.append(_busy(before, _machine()))
    arm.api_server += await _api_server_seconds(client) - spent


async def cell(client: Client, made: dict[tuple[str, str], bytes], rate: float, size: str, seconds: float) -> list[str]:
    """Return one line of the table."""
    rng = random.Random(7)  # noqa: S311  # the same order in every run
    arms, server, before = {True: Arm(), False: Arm()}, Server(), await _webhook_calls(client)
    for _ in range(max(1, round(seconds / BLOCK))):
        kinds = rng.choices(list(MIX), list(MIX.values()), k=int(rate * BLOCK))
        sizes = rng.choices(list(MIXED), list(MIXED.values()), k=len(kinds)) if size == "mixed" else [size] * len(kinds)
        for ours in (True, False):
            requests = {
                key: client.written(PATH, body if ours else body.replace(OURS.encode(), THEIRS.encode()))
                for key, body in made.items()
            }
            sent = [(kind, requests[kind, each]) for kind, each in zip(kinds, sizes, strict=True)]
            if ours:
                async with _watched(client, server):
                    await block(client, arms[ours], sent, rate, 403)
            else:
                await block(client, arms[ours], sent, rate, 201)
    return _line(rate, size, arms[True], arms[False], server, before, await _webhook_calls(client))


HEADINGS = (
    "requests/s", "objects", "with: p50", "p99", "without: p50", "p99", "added: p50", "p99", "late", "not sent",
    "failed", "machine busy", "API server CPU", "webhook call, mean", "webhook CPU", "webhook memory",
)  # fmt: skip


def _line(
    rate: float, size: str, ours: Arm, theirs: Arm, server: Server, before: dict[str, float], after: dict[str, float]
) -> list[str]:
    for arm in (ours, theirs):
        for what, number in arm.wrong.most_common(3):
            print(f"    {number} x {what}")
    values = [arm.quantile(share) for arm in (ours, theirs) for share in (0.5, 0.99)]
    calls = sum(after[f"{name} count"] - before[f"{name} count"] for name in WEBHOOKS)
    spent = sum(after[f"{name} sum"] - before[f"{name} sum"] for name in WEBHOOKS)
    return [
        f"{rate:.0f}",
        size,
        *(f"{value:.1f}" for value in values),
        *(f"{values[index] - values[index + 2]:.1f}" for index in (0, 1)),
        f"{ours.late} / {theirs.late}",
        f"{ours.unsent} / {theirs.unsent}",
        f"{ours.wrong.total()} / {theirs.wrong.total()}",
        " / ".join(f"{statistics.mean(arm.busy):.0%}" for arm in (ours, theirs)),
        " / ".join(f"{arm.api_server / arm.elapsed:.2f}" for arm in (ours, theirs)),
        f"{spent / calls * 1000:.1f}" if calls else "-",
        f"{server.cpu / server.elapsed:.2f}",
        f"{server.memory / 2**20:.0f}",
    ]


@asynccontextmanager
async def _watched(client: Client, server: Server) -> AsyncIterator[None]:
    """Measure the replicas' resource usage during the block."""
    names = await replicas(client)

    async def used() -> list[tuple[float, float]]:
        return [await usage(client, name) for name in names]

    async def look() -> None:
        while True:
            await asyncio.sleep(1)
            server.memory = max(server.memory, *(memory for _, memory in await used()))

    before, start = await used(), time.perf_counter()
    watcher = asyncio.create_task(look())
    yield
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher
    server.elapsed += time.perf_counter() - start
    after = await used()
    server.memory = max(server.memory, *(memory for _, memory in after))
    server.cpu += sum(cpu for cpu, _ in after) - sum(cpu for cpu, _ in before)


async def _api_server_seconds(client: Client) -> float:
    found = re.search(r"^process_cpu_seconds_total (\S+)$", await client.text("/metrics"), re.MULTILINE)
    return float(found[1]) if found else float("nan")


async def _webhook_calls(client: Client) -> dict[str, float]:
    """Return the number and total seconds of our webhooks' calls, from the API server's histogram."""
    found: Counter[str] = Counter()
    pattern = re.compile(r"^apiserver_admission_webhook_admission_duration_seconds_(sum|count)\{(.*)\} (\S+)$")
    for line in (await client.text("/metrics")).splitlines():
        match = pattern.match(line)
        if not match:
            continue
        for name in WEBHOOKS:
            if f'name="{name}"' in match[2]:
                found[f"{name} {match[1]}"] += float(match[3])  # type: ignore[assignment]
    return dict(found)


def _machine() -> tuple[float, float]:
    """Return this machine's idle and total jiffies so far."""
    with open("/proc/stat") as file:
        values = [int(value) for value in file.readline().split()[1:9]]
    return values[3] + values[4], sum(values)


def _busy(before: tuple[float, float], after: tuple[float, float]) -> float:
    return 1 - (after[0] - before[0]) / (after[1] - before[1])


def _kubectl(*arguments: str) -> str:
    done = subprocess.run(["kubectl", "-n", "kubectl-serve", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def _scale(replicas: int) -> None:
    _kubectl("scale", "deployment/kubectl-serve", f"--replicas={replicas}")
    _kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
    while len(_kubectl("get", "pods", "-o", "name").split()) != replicas:
        time.sleep(0.5)


async def run(args: argparse.Namespace) -> None:
    async with connected() as client:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        if (await client.post("/api/v1/namespaces", json.dumps(namespace).encode()))[0] != 201:
            raise SystemExit(f"Namespace {NAMESPACE} is there already: an earlier run's may be on its way out.")
        policies = "/apis/kubectl-serve.dev/v1alpha1/servingpolicies"
        await client.post(policies, json.dumps(POLICY).encode())
        before = int(_kubectl("get", "deployment/kubectl-serve", "-o", "jsonpath={.spec.replicas}"))
        try:
            for replicas in args.replicas:
                _scale(replicas)
                made = await bodies(client)
                before_load = _machine()
                await asyncio.sleep(BLOCK)
                busy = _busy(before_load, _machine())
                print(f"\n### {replicas} replica{'s' if replicas > 1 else ''}\n")
                print(f"Before the first request the machine was {busy:.0%} busy.\n")
                print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}", flush=True)
                for rate in args.rates:
                    for size in args.sizes:
                        print(f"| {' | '.join(await cell(client, made, rate, size, args.seconds))} |", flush=True)
        finally:
            _scale(before)
            await client.delete(f"{policies}/{NAMESPACE}")
            await client.delete(f"/api/v1/namespaces/{NAMESPACE}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench admission", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 200, 500], help="requests per second")
    parser.add_argument("--sizes", nargs="+", default=[*SIZES, "mixed"], choices=[*SIZES, "mixed"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=12, help="of each cell, with the webhooks and again without")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
