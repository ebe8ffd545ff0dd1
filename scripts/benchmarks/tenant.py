"""What a hostile tenant costs the others: random hostile requests, and another tenant's admission latency meanwhile.

A user with the role `edit` in two namespaces sends the requests of scripts/attacker: objects designed to stop the
server or to evade policies, and random mutations of valid ones; created, applied, patched, scaled, deleted, with and
without dry run. One namespace has starter policies that deny, the other none. The attacker's pods have our names and
labels and write hostile termination messages.

Meanwhile another tenant creates and changes models, and sends requests to one. The same phase without the attacker
comes first. In the middle of both, a replica of the server is replaced, so that one starts among all these objects. At
the end, an oracle of the policies that shares no code with them checks every object that exists.

Needs a local cluster with kubectl-serve installed: eval "$(scripts/cluster env)".

Prints Markdown, as in docs/benchmarks/tenant.md. The folder --findings has each request for which the server failed or
did not respond.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from attacker import corpus, oracle  # noqa: E402
from bench_client import Client, connected, replicas, usage  # noqa: E402
from cluster.support import (  # noqa: E402  # also used by the tests on a cluster
    Json,
    Namespace,
    deployment,
    example_store,
    file_server,
    pod_template,
)
from serve_core.api import state  # noqa: E402

SPACE, WRITES = Namespace("tenant-bench"), Namespace("tenant-bench-writes")
"""The other tenant's namespaces: one for the model that gets requests, one with policies for the writes."""
BOUNDED, FREE = Namespace("hostile-bounded"), Namespace("hostile-free")
"""The attacker's namespaces: with policies, and without."""
ATTACKER, TENANT = "mallory", "alice"
MODEL = b"a model that is asked all the while"
URI = "s3://models/tenant/model.bin"
PLAIN = "a plain Deployment, dry run"
"""Requests that never reach the server: they measure the machine and the API server."""
PAUSE = 0.2
"""Seconds between two writes of the tenant, and between two requests to the model."""
WATCH = 2.0
"""Seconds between two samples of the server's memory and restarts."""
LOOK = 60.0
"""Seconds between two checks of all existing objects. What the attacker stores is checked at once, in its response."""
QUOTA = {
    "pods": "8",
    "services": "40",
    "secrets": "30",
    "configmaps": "30",
    "count/deployments.apps": "30",
    "count/services.serving.knative.dev": "6",
    "count/configurations.serving.knative.dev": "6",
    "count/revisions.serving.knative.dev": "20",
    "count/horizontalpodautoscalers.autoscaling": "20",
}
"""A quota for each of the attacker's namespaces: the attack is on the server, not on the machine."""
DEFECT = re.compile(rb'kubectl-serve failed on this object|failed calling webhook \\?"[a-z.-]+kubectl-serve.dev')
"""The API server's response if the server failed, or did not respond."""
FAULTS = re.compile(r"Traceback|cannot be reconciled|[Rr]eviewing .* failed|Error: ")
LISTED = (
    corpus.DEPLOYMENTS, corpus.PODS, corpus.KNATIVE_SERVICES, corpus.CONFIGURATIONS, corpus.REVISIONS, corpus.ROUTES,
    corpus.DOMAIN_MAPPINGS,
)  # fmt: skip


@dataclass
class Seen:
    """The tenant's latencies in one phase, in seconds, by operation."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)

    def cells(self, what: str) -> list[str]:
        """Return the number, and the quantiles in milliseconds."""
        values = self.seconds.get(what, [])
        if len(values) < 2:
            return [str(len(values)), "-", "-", "-"]
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return [str(len(values)), *(f"{cuts[share - 1] * 1000:.0f}" for share in (50, 90, 99))]


@dataclass
class Server:
    """The server's pods during the watch."""

    resident: float = 0.0
    """Peak bytes of the largest replica."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Restarts by pod."""


@dataclass
class Attack:
    """The attacker's requests, and the responses."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """The API server's messages when the server failed or did not respond."""
    findings: int = 0
    forbidden: Counter[str] = field(default_factory=Counter)
    """Objects that existed although a policy forbids them, and why."""
    seconds: float = 0.0


def note(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(["kubectl", *arguments], input=stdin, check=check, capture_output=True, text=True)
    return done.stdout


# --- The two tenants


def give(namespace: Namespace, user: str) -> None:
    """A namespace with the role edit in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name, "labels": labels}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": user, "namespace": namespace.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        },
    )


def policies() -> Iterator[Json]:
    """Return the starter policies for the attacker's one namespace, and all but one for the tenant's."""
    for name in oracle.POLICIES:
        policy: Json = yaml.safe_load((ROOT / f"manifests/policies/{name}.yaml").read_text())
        policy["metadata"]["name"] = f"tenant-bench-{name}"
        for rule in policy["spec"]["rules"]:
            if "allow" in rule.get("images", {}):
                rule["images"]["allow"].append("docker.io/seldonio/mlserver")  # from the catalogue
            if "sources" in rule:
                # The store of the tenant's bucket: without it, an s3:// place is AWS's, for any Secret.
                rule["sources"]["stores"] = [
                    {"place": "s3://models", "endpoint": f"http://store.{SPACE.name}.svc:7070"}
                ]
        spaces = [BOUNDED.name] if name == "private-by-default" else [BOUNDED.name, WRITES.name]
        policy["spec"] |= {"action": "Deny", "match": {"namespaces": spaces}}
        yield policy


@contextlib.contextmanager
def prepared() -> Iterator[str]:
    """Create the namespaces, policies and the tenant's model; yield its URL. Deletes everything at the end."""
    spaces = (SPACE, WRITES, BOUNDED, FREE)
    remove(spaces)
    try:
        for namespace, user in ((SPACE, TENANT), (WRITES, TENANT), (BOUNDED, ATTACKER), (FREE, ATTACKER)):
            give(namespace, user)
        for namespace in (BOUNDED, FREE):
            quota = {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "bench"},
                "spec": {"hard": QUOTA},
            }
            namespace.apply(quota)
        for policy in policies():
            kubectl("apply", "-f", "-", stdin=json.dumps(policy))
        example_store(SPACE).bucket.put(URI.removeprefix("s3://models/"), MODEL)
        container = file_server("server", "/mnt/models") | {"resources": corpus.MODEST}
        server = pod_template(container, {"app": "model"})
        digest = f"sha256:{hashlib.sha256(MODEL).hexdigest()}"
        notes = {"credentials": "store", "digest": digest, "format": "onnx", "scale": "1..1"}
        SPACE.apply(deployment("model", URI, server, **notes))
        yield state.read(SPACE.wait_ready("model", 300)).url
    finally:
        remove(spaces)


def remove(spaces: tuple[Namespace, ...]) -> None:
    """Delete the namespaces, even with finalizers of the attacker, and the policies."""
    names = [f"tenant-bench-{name}" for name in oracle.POLICIES]
    kubectl("delete", "servingpolicies", *names, "--ignore-not-found")
    kubectl("delete", "namespace", *(each.name for each in spaces), "--ignore-not-found", "--wait=false")
    for namespace in spaces:
        for kind in (corpus.DEPLOYMENTS, *corpus.KINDS):
            group = kind.api_version.rpartition("/")[0]
            resource = f"{kind.plural}.{group}" if group else kind.plural
            listed = kubectl("get", resource, "-n", namespace.name, "-o", "json", check=False)
            for each in json.loads(listed or "{}").get("items", []):
                if each["metadata"].get("finalizers"):
                    patch = '{"metadata": {"finalizers": null}}'
                    name = each["metadata"]["name"]
                    kubectl("patch", resource, name, "-n", namespace.name, "--type=merge", "-p", patch, check=False)
    for each in spaces:
        kubectl("wait", "--for=delete", f"namespace/{each.name}", "--timeout=3m", check=False)


class Caller:
    """The API server, with the credentials of one user."""

    def __init__(self, client: Client, user: str) -> None:
        self._client = client
        self._headers = {"Impersonate-User": user}

    async def send(self, operation: corpus.Operation) -> tuple[int, bytes]:
        headers = self._headers | {"Content-Type": operation.content_type}
        return await self._client.request(operation.method, operation.path, operation.body, headers)


async def writes(caller: Caller, seen: Seen, end: float) -> None:
    """Create, change and delete models, as a normal user does. They run no pods: the machine is small."""
    number = 0
    while time.monotonic() < end:
        number += 1
        name = f"other-{number}"
        made = corpus.honest(name)
        notes = made["metadata"]["annotations"]
        del notes[f"{corpus.PREFIX}visibility"]
        notes |= {f"{corpus.PREFIX}mode": "deployment", f"{corpus.PREFIX}scale": "1..2"}
        path = corpus.DEPLOYMENTS.path(WRITES.name)
        one = f"{path}/{name}"
        plain = {**corpus.deployment(name, None), "metadata": {"name": name}}
        patch = {"metadata": {"annotations": {f"{corpus.PREFIX}scale": "1..3"}}}
        dry = "?dryRun=All"
        for what, method, to, body, content_type in (
            (PLAIN, "POST", path + dry, plain, "application/json"),
            ("create, dry run", "POST", path + dry, made, "application/json"),
            ("create", "POST", path, made, "application/json"),
            ("change", "PATCH", one, patch, corpus.MERGE),
            ("change, dry run", "PATCH", one + dry, patch, corpus.MERGE),
            ("", "DELETE", one, {}, "application/json"),
        ):
            operation = corpus.Operation(what, method, to, json.dumps(body).encode(), content_type)
            begun = time.perf_counter()
            try:
                status, text = await caller.send(operation)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                seen.wrong[f"{method}: {type(error).__name__}"] += 1
                continue
            if status >= 300:
                seen.wrong[
                    f"{what or 'delete'}: HTTP {status} {re.sub('other-[0-9]+', 'NAME', _message(text))[:300]}"
                ] += 1
                if what == "create":
                    break
            elif what:
                seen.add(what, time.perf_counter() - begun)
                if what != PLAIN:
                    seen.add("all writes", time.perf_counter() - begun)
            await asyncio.sleep(PAUSE)


async def questions(url: str, seen: Seen, end: float) -> None:
    """Send requests to the model."""
    balancer = Namespace("traefik").get("service", "traefik")["status"]["loadBalancer"]
    address, host = balancer["ingress"][0]["ip"], url.partition("://")[2]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        while time.monotonic() < end:
            begun = time.perf_counter()
            try:
                async with session.get(f"http://{address}/", headers={"Host": host}) as answer:
                    await answer.read()
                    if answer.status == 200:
                        seen.add("an answer of the model", time.perf_counter() - begun)
                    else:
                        seen.wrong[f"the model: HTTP {answer.status}"] += 1
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                seen.wrong[f"the model: {type(error).__name__}"] += 1
            await asyncio.sleep(PAUSE)


# --- The attacker, in a separate process: its CPU time must not slow the measurement


def attack(seed: int, minutes: float, workers: int, rate: float, findings: str, answer: Any) -> None:
    """Send requests until the time is over. ``answer`` receives the :class:`Attack`."""
    os.nice(19)  # on another machine it would use none of this CPU
    answer.put(asyncio.run(_attack(seed, minutes * 60, workers, rate, Path(findings))))


async def _attack(seed: int, seconds: float, workers: int, rate: float, findings: Path) -> Attack:
    done, rng, begun = Attack(), random.Random(seed), time.monotonic()  # noqa: S311
    turns: deque[float] = deque([begun])

    async def work(caller: Caller) -> None:
        while time.monotonic() < begun + seconds:
            due = max(time.monotonic(), turns[-1] + 1 / rate)
            turns[-1] = due
            await asyncio.sleep(due - time.monotonic())
            namespace = rng.choice((BOUNDED, FREE)).name
            speaks = namespace == FREE.name and rng.random() < 0.03
            operation = _pod(rng, namespace) if speaks else corpus.operation(rng, namespace)
            try:
                status, text = await caller.send(operation)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                done.answers[operation.what, type(error).__name__] += 1
                continue
            done.answers[operation.what, f"{status // 100}xx"] += 1
            if status < 300 and namespace == BOUNDED.name and "dryRun" not in operation.path:
                with contextlib.suppress(RecursionError):  # nested deeper than any object that serves a model
                    done.forbidden.update(judged(json.loads(text)))
            if DEFECT.search(text):
                done.findings += 1
                done.errors[re.sub(r"[0-9]+", "N", _message(text))[:300]] += 1
                _keep(findings, done.findings, operation, text)

    async with connected() as client, asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work(Caller(client, ATTACKER)))
        group.create_task(_clear(Caller(client, ATTACKER), rng, begun + seconds))
        group.create_task(existing(client, done.forbidden, begun + seconds))
    done.seconds = time.monotonic() - begun
    return done


def _pod(rng: random.Random, namespace: str) -> corpus.Operation:
    pod = corpus.speaking_pod(rng, rng.choice(corpus.NAMES))
    return corpus.Operation("pods that speak", "POST", corpus.PODS.path(namespace), corpus.written(pod))


async def _clear(caller: Caller, rng: random.Random, end: float) -> None:
    """Delete objects now and then, even with finalizers, to make room under the quota."""
    while time.monotonic() < end:
        await asyncio.sleep(5)
        namespace = rng.choice((BOUNDED, FREE)).name
        for kind in (corpus.PODS, corpus.DEPLOYMENTS, corpus.SERVICES, corpus.SECRETS, corpus.CONFIG_MAPS):
            if rng.random() < 0.7 and kind is not corpus.PODS:
                continue
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                await caller.send(corpus.Operation("", "DELETE", kind.path(namespace)))


def _keep(folder: Path, number: int, operation: corpus.Operation, answer: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    head = f"{operation.method} {operation.path}\nContent-Type: {operation.content_type}\n\n"
    text = head.encode() + operation.body + b"\n\n--- answer\n" + answer[:4_000]
    (folder / f"{number:04}.txt").write_bytes(text)


# --- What is watched


async def watch(client: Client, server: Server) -> None:
    """Sample the server's memory and restarts, until cancelled."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError):
            look(await client.text("/api/v1/namespaces/kubectl-serve/pods"), server)
            for name in await replicas(client):
                with contextlib.suppress(aiohttp.ClientError):
                    server.resident = max(server.resident, (await usage(client, name))[1])
        await asyncio.sleep(WATCH)


def look(pods: str, server: Server) -> None:
    for pod in json.loads(pods)["items"]:
        statuses = (pod.get("status") or {}).get("containerStatuses") or []
        count = sum(status["restartCount"] for status in statuses)
        server.restarts[pod["metadata"]["name"]] = max(count, server.restarts.get(pod["metadata"]["name"], 0))


def judged(manifest: Json) -> list[str]:
    """What the oracle says of an object in the attacker's bounded namespace, if it is of a kind that policies judge."""
    if manifest["kind"] not in {kind.name for kind in LISTED}:
        return []
    return [f"{manifest['kind']} {manifest['metadata']['name']}: {why}" for why in oracle.forbidden(manifest)]


async def existing(client: Client, found: Counter[str], until: float) -> None:
    """Check what exists in the attacker's bounded namespace with the oracle, periodically and at the end.

    The attacker's process does so: the lists and the oracle's work must not slow the measurement.
    """
    while True:
        for kind in LISTED:
            try:
                for each in json.loads(await client.text(kind.path(BOUNDED.name)))["items"]:
                    found.update(judged({"apiVersion": kind.api_version, "kind": kind.name} | each))
            except (aiohttp.ClientError, OSError, TimeoutError):
                continue
            except RecursionError:
                found[f"{kind.name}: nested too deeply to be judged"] += 1
        if time.monotonic() > until:
            return
        await asyncio.sleep(min(LOOK, max(0.0, until - time.monotonic()) + 0.01))


async def replaced(after: float) -> None:
    """Replace a replica in the middle, and wait until the new one is ready."""
    await asyncio.sleep(after)
    names = kubectl("get", "pods", "-n", "kubectl-serve", "-o", "name").split()
    process = await asyncio.create_subprocess_exec(
        "kubectl", "delete", "-n", "kubectl-serve", min(names), "--wait=false", stdout=subprocess.DEVNULL
    )
    await process.wait()
    process = await asyncio.create_subprocess_exec(
        "kubectl", "rollout", "status", "-n", "kubectl-serve", "deployment/kubectl-serve", "--timeout=3m",
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        note("the replica that was replaced is not ready after three minutes")


async def phase(client: Client, url: str, minutes: float, server: Server) -> Seen:
    """Run the tenant's work for that long."""
    seen, end = Seen(), time.monotonic() + minutes * 60
    watcher = asyncio.create_task(watch(client, server))
    async with asyncio.TaskGroup() as group:
        group.create_task(writes(Caller(client, TENANT), seen, end))
        group.create_task(questions(url, seen, end))
        group.create_task(replaced(minutes * 30))
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher
    return seen


HIGHEST = """
import os, re
sizes = []
for number in filter(str.isdigit, os.listdir("/proc")):
    if int(number) != os.getpid():
        found = re.search("VmHWM:\\s+([0-9]+) kB", open(f"/proc/{number}/status").read())
        sizes.append(int(found[1]) if found else 0)
print(sum(sizes) / 1024)
"""


def peak() -> dict[str, float]:
    """Return the peak MiB of each replica's processes, from the kernel."""
    found = {}
    for name in kubectl("get", "pods", "-n", "kubectl-serve", "-o", "name").split():
        run = ("exec", "-n", "kubectl-serve", name, "--", "/opt/kubectl-serve/bin/python", "-c", HIGHEST)
        if said := kubectl(*run, check=False).strip():
            found[name.removeprefix("pod/")] = float(said)
    return found


def faults(since: str, folder: Path) -> Counter[str]:
    """Return the lines of the server's logs that report a defect."""
    found: Counter[str] = Counter()
    for name in kubectl("get", "pods", "-n", "kubectl-serve", "-o", "name").split():
        for more in ((), ("--previous",)):
            text = kubectl("logs", "-n", "kubectl-serve", name, f"--since-time={since}", *more, check=False)
            if FAULTS.search(text):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name.removeprefix('pod/')}{''.join(more)}.log").write_text(text)
            for line in text.splitlines():
                if FAULTS.search(line):
                    found[_fault(line)] += 1
    return found


def _fault(line: str) -> str:
    """Return a line without the parts that differ each time."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        raised = [part.strip(" |+-") for part in str(entry.get("error") or "").splitlines()]
        last = next((part for part in reversed(raised) if re.match(r"[\w.]+(Error|Exception)\b", part)), "")
        return re.sub(r"[a-z0-9.-]+/[a-z0-9.-]+", "NAME", f"{entry.get('message')} {last}")[:300]
    return line[:300]


def _message(text: bytes) -> str:
    with contextlib.suppress(ValueError):
        return str(json.loads(text).get("message") or "")
    return text[:200].decode(errors="replace")


# --- What is printed


def table(quiet: Seen, hostile: Seen) -> Iterator[str]:
    titles = ("", "quiet: number", "p50", "p90", "p99", "attacked: number", "p50", "p90", "p99", "p99, times")
    yield f"| {' | '.join(titles)} |"
    yield f"|{' --- |' * len(titles)}"
    for what in (
        "all writes",
        "create",
        "create, dry run",
        "change",
        "change, dry run",
        PLAIN,
        "an answer of the model",
    ):
        one, two = quiet.cells(what), hostile.cells(what)
        times = f"{float(two[3]) / float(one[3]):.1f}" if "-" not in (one[3], two[3]) and float(one[3]) else "-"
        yield f"| {' | '.join([what, *one, *two, times])} |"


def report(args: argparse.Namespace, quiet: Seen, hostile: Seen, done: Attack, server: Server) -> None:
    sent = sum(done.answers.values())
    print(f"{sent} hostile requests in {done.seconds / 60:.1f} minutes ({sent / done.seconds:.1f} a second, ", end="")
    print(f"{args.workers} at once, seed {args.seed}). Milliseconds of the other tenant:\n")
    print("\n".join(table(quiet, hostile)))
    print()
    for name, seen in (("quiet", quiet), ("attacked", hostile)):
        for what, number in seen.wrong.most_common(10):
            print(f"- {name}: {number} x {what}")
    limit = kubectl(
        "get", "deployment/kubectl-serve", "-n", "kubectl-serve",
        "-o", "jsonpath={.spec.template.spec.containers[0].resources.limits.memory}",
    )  # fmt: skip
    peaks = " and ".join(f"{size:.0f}" for size in peak().values()) or "not known"
    print(f"\nRestarts of the server's containers: {sum(server.restarts.values())}. ", end="")
    highest = server.resident / 2**20
    print(f"Peak memory: {peaks} MiB by the kernel, {highest:.0f} MiB as it was seen; the limit is {limit}.")
    print(f"Requests for which the server failed or gave no answer: {done.findings}.")
    for what, number in done.errors.most_common(10):
        print(f"- {number} x {what}")
    print(f"Objects that the policies forbid: {len(done.forbidden)}.")
    for what, number in done.forbidden.most_common(20):
        print(f"- {what} (seen {number} times)")
    for what, number in faults(args.since, Path(args.findings)).most_common(20):
        print(f"- in the log, {number} x {what}")
    kinds = sorted({what for what, _ in done.answers})
    codes = sorted({code for _, code in done.answers})
    print(f"\n| what was sent | {' | '.join(codes)} |\n|{' --- |' * (len(codes) + 1)}")
    for kind in kinds:
        print(f"| {kind} | {' | '.join(str(done.answers[kind, code]) for code in codes)} |")


@contextlib.asynccontextmanager
async def attacking(args: argparse.Namespace) -> AsyncIterator[Any]:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    given = (args.seed, args.minutes, args.workers, args.rate, args.findings, answer)
    process = context.Process(target=attack, args=given, daemon=True)
    process.start()
    try:
        yield answer
    finally:
        process.join(60)
        process.kill()


async def run(args: argparse.Namespace) -> None:
    with prepared() as url:
        kubectl("rollout", "restart", "-n", "kubectl-serve", "deployment/kubectl-serve")
        kubectl("rollout", "status", "-n", "kubectl-serve", "deployment/kubectl-serve", "--timeout=5m")
        args.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        server = Server()
        async with connected() as client:
            note(f"quiet for {args.quiet:g} minutes")
            quiet = await phase(client, url, args.quiet, server)
            note(f"attacked for {args.minutes:g} minutes")
            async with attacking(args) as answer:
                hostile = await phase(client, url, args.minutes, server)
                done = await asyncio.to_thread(answer.get, timeout=120)
            await existing(client, done.forbidden, 0)
            look(await client.text("/api/v1/namespaces/kubectl-serve/pods"), server)
        report(args, quiet, hostile, done, server)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench tenant", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20, help="with the attacker")
    parser.add_argument("--quiet", type=float, help="minutes without (default: a quarter of that)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4, help="requests of the attacker at once")
    parser.add_argument("--rate", type=float, default=20, help="requests of the attacker a second, at most")
    parser.add_argument("--findings", default="dist/tenant-findings", help="folder for what made the server fail")
    args = parser.parse_args()
    args.quiet = args.quiet or args.minutes / 4
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    asyncio.run(run(args))


if __name__ == "__main__":
    main()
