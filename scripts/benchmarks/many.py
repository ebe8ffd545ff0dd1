"""What many models cost beside as many bare Knative Services: calls, CPU, and the time until they are there, or gone.

Two arms of the same objects: `models` are annotated Deployments, `bare` are Knative Services with the template that
kubectl-serve makes, except for the loader: their init container writes a file of the same size. Server, probes and
resources are the same. The server is Python's http.server, which starts fast and so hides nothing.

Each block creates all objects of one arm with one `kubectl apply`, changes a variable in all of them, and deletes them
with one `kubectl delete`. Before each next step, all must be Ready and then scaled to zero, so that the pods of one
step do not compete with the next one. Blocks come in the order models, bare, bare, models, so that a drift of the
machine cancels out. Figures are means over the blocks of an arm.

Needs a local cluster with kubectl-serve installed: eval "$(scripts/cluster env)". Prints Markdown; see
docs/benchmarks/many.md.
"""

import argparse
import asyncio
import contextlib
import copy
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from bench_client import Client, connected, replicas  # noqa: E402
from cluster.support import (  # noqa: E402  # also used by the tests on a cluster
    PREFIX,
    PYTHON_IMAGE,
    RESTRICTED,
    Json,
    Namespace,
    condition,
    deployment,
    eventually,
    example_store,
    is_ready,
    pod_template,
)
from serve_kube.access import Connection  # noqa: E402
from serve_kube.http_client import HttpClient  # noqa: E402
from serve_kube.paging import Unread  # noqa: E402
from serve_kube.resources import DEPLOYMENTS, KNATIVE_SERVICES, PODS, Resource  # noqa: E402

MODELS, BARE = "models", "bare"
SPACES = {MODELS: Namespace("bench-many-models"), BARE: Namespace("bench-many-bare")}
STORE = Namespace("bench-many-store")
SERVICES = "services.serving.knative.dev"
MODEL = "s3://models/many/model.bin"
MODEL_BYTES = 1_000_000
FOLDER = "/mnt/models"
PYTHON = "/opt/mlserver/bin/python"
# Python as a container's first process ignores SIGTERM without a handler.
SERVER = f"""
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory={FOLDER!r})
http.server.ThreadingHTTPServer(("", 8080), handler).serve_forever()
"""
WRITER = f"import os; open('{FOLDER}/model.bin', 'wb').write(os.urandom({MODEL_BYTES}))"
"""The program of the bare arm's init container."""
SECONDS = 900
"""Maximum duration of one step."""
IGNORED = frozenset({"leases", "events"})
"""Resources that the table of calls leaves out: what renews itself, and Events, which are counted apart."""
LEAST = 0.05
"""Calls per object that are shown."""


def note(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


# --- Measurements


@dataclass
class Usage:
    """What was counted so far, or between two moments."""

    api_server: float = 0.0
    """CPU seconds."""
    leader: float = 0.0
    others: float = 0.0
    """CPU seconds of the server's other replicas."""
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests by verb and resource, without watches."""
    reviews: Counter[str] = field(default_factory=Counter)
    """Calls of each webhook."""
    writes: Counter[str] = field(default_factory=Counter)
    """The reconciler's own writes."""
    turns: Counter[str] = field(default_factory=Counter)
    """The reconciler's turns, by their result."""

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.api_server - earlier.api_server,
            self.leader - earlier.leader,
            self.others - earlier.others,
            self.calls - earlier.calls,
            self.reviews - earlier.reviews,
            self.writes - earlier.writes,
            self.turns - earlier.turns,
        )


_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def _samples(text: str, *names: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in text.splitlines():
        if line.startswith(names) and (found := _SAMPLE.match(line)) and found[1] in names:
            yield found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])


async def measured(client: Client) -> Usage:
    """Everything that is counted, now."""
    found = Usage()
    requests, hooks = "apiserver_request_total", "apiserver_admission_webhook_admission_duration_seconds_count"
    cpu = "process_cpu_seconds_total"
    for name, labels, value in _samples(await client.text("/metrics"), requests, hooks, cpu):
        if name == cpu:
            found.api_server = value
        elif name == hooks:
            found.reviews[labels["name"]] += round(value)
        elif labels["verb"] not in ("WATCH", "CONNECT"):
            resource = "/".join(filter(None, (labels["resource"], labels["subresource"])))
            group = labels["group"].partition(".")[0]
            # Knative's and Kubernetes' Services have one plural.
            known = f"{resource} ({group})" if group in ("serving", "networking", "autoscaling") else resource
            found.calls[labels["verb"], known] += round(value)
    turns, writes, leading = "kubectl_serve_reconciles_total", "kubectl_serve_writes_total", "kubectl_serve_leading"
    for pod in await replicas(client):
        path = f"/api/v1/namespaces/kubectl-serve/pods/{pod}:8080/proxy/metrics"
        spent, leads = 0.0, False
        for name, labels, value in _samples(await client.text(path), turns, writes, leading, cpu):
            if name == cpu:
                spent = value
            elif name == leading:
                leads = value == 1
            elif name == turns:
                found.turns[labels["result"]] += round(value)
            else:
                found.writes[labels["what"]] += round(value)
        if leads:
            found.leader += spent
        else:
            found.others += spent
    return found


@dataclass
class Step:
    """One step of one block, in seconds from its start."""

    command: float
    """Until kubectl had returned."""
    done: float
    """Until all objects were Ready, or gone."""
    usage: Usage
    """Until all were Ready and then at zero, or gone."""


# --- Waiting


class Watcher:
    """Follows the objects of one resource in a namespace, by one watch."""

    def __init__(self, api: HttpClient, resource: Resource, namespace: Namespace) -> None:
        self._api = api
        self._resource = resource
        self._namespace = namespace.name
        self._head = {"apiVersion": resource.api_version, "kind": resource.kind}

    async def until(self, enough: Callable[[dict[str, Json]], bool]) -> None:
        """Return once the present objects, by name, are as wanted. Raises TimeoutError after :data:`SECONDS`."""
        async with asyncio.timeout(SECONDS):
            async for objects in self._states():
                if enough(objects):
                    return

    async def generations(self) -> dict[str, int]:
        """The present generation of each object."""
        async for objects in self._states():
            return {name: each["metadata"]["generation"] for name, each in objects.items()}
        raise AssertionError("the first state comes at once")

    async def _states(self) -> AsyncIterator[dict[str, Json]]:
        while True:
            objects: dict[str, Json] = {}
            version = ""
            async for page in self._api.pages(self._resource, self._namespace):
                version = page.version
                objects |= {each["metadata"]["name"]: self._head | each for each in page.items}
            yield objects
            async for event in self._api.watch(self._resource, self._namespace, {}, version, 300):
                found = event.object
                if isinstance(found, Unread):
                    raise RuntimeError(f"{self._resource.kind} cannot be read: {found.why}")
                if event.type == "BOOKMARK":
                    continue
                name = found["metadata"]["name"]
                if event.type == "DELETED":
                    objects.pop(name, None)
                else:
                    objects[name] = found
                yield objects


def knative_is_ready(found: Json) -> bool:
    status = found.get("status") or {}
    current = status.get("observedGeneration") == found["metadata"]["generation"]
    return current and condition(found, "Ready").get("status") == "True"


READY: dict[str, tuple[Resource, Callable[[Json], bool]]] = {
    MODELS: (DEPLOYMENTS, is_ready),
    BARE: (KNATIVE_SERVICES, knative_is_ready),
}


def all_ready(arm: str, names: Sequence[str], generations: dict[str, int]) -> Callable[[dict[str, Json]], bool]:
    """Whether each object is Ready, in a generation after the one given."""
    is_one_ready = READY[arm][1]
    # An object that was Ready is not examined again with each event: a hundred objects times a thousand events.
    seen: set[str] = set()

    def check(objects: dict[str, Json]) -> bool:
        for name in names:
            if name not in seen and (found := objects.get(name)):
                is_later = found["metadata"]["generation"] > generations.get(name, 0)
                if is_later and is_one_ready(found):
                    seen.add(name)
        return len(seen) == len(names)

    return check


def none(objects: dict[str, Json]) -> bool:
    return not objects


# --- The two arms


def model(name: str, number: int) -> Json:
    """An annotated Deployment; ``number`` changes with each update."""
    server: Json = {
        "name": "server",
        "image": PYTHON_IMAGE,
        "command": [PYTHON, "-c", SERVER],
        "env": [{"name": "CHANGE", "value": str(number)}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/model.bin", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "1m", "memory": "32Mi"}},
        "securityContext": RESTRICTED,
    }
    spec = pod_template(server, {"app": name})
    return deployment(name, MODEL, spec, credentials="store", window="6s")


def bare_template(template: Json) -> Json:
    """The template of a model's Knative Service, without kubectl-serve: another program writes the model."""
    template = copy.deepcopy(template)
    for kind in ("labels", "annotations"):
        kept = {key: value for key, value in template["metadata"].get(kind, {}).items() if not key.startswith(PREFIX)}
        template["metadata"][kind] = kept
    pod = template["spec"]
    (ours,) = pod["initContainers"]
    writer = {
        "name": "init",
        "image": PYTHON_IMAGE,
        "command": [PYTHON, "-c", WRITER],
        "resources": ours["resources"],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "model", "mountPath": FOLDER, "subPath": "model"}],
    }
    pod["initContainers"] = [writer]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] == "model"]
    return template


def bare(name: str, number: int, template: Json) -> Json:
    template = copy.deepcopy(template)
    template["metadata"]["labels"] = {"app": name}
    template["spec"]["containers"][0]["env"] = [{"name": "CHANGE", "value": str(number)}]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"template": template},
    }


@contextlib.contextmanager
def prepared() -> Iterator[Json]:
    """Create the namespaces and the store; yield the template of the bare arm. Deletes everything at the end."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    spaces = (STORE, *SPACES.values())
    for space in spaces:
        space.kubectl("delete", "namespace", space.name, "--ignore-not-found")
        space.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space.name, "labels": labels}})
    try:
        store = example_store(STORE)
        store.bucket.put(MODEL.removeprefix("s3://models/"), bytes(MODEL_BYTES))
        ours, theirs = SPACES[MODELS], SPACES[BARE]
        # The first pods also bring the images to the node.
        ours.apply(store.secret(), model("sample", 0))
        ours.wait_ready("sample", 300)
        template = bare_template(ours.get(SERVICES, "sample")["spec"]["template"])
        theirs.apply(bare("sample", 0, template))
        theirs.kubectl("wait", "--for=condition=Ready", f"{SERVICES}/sample", "--timeout=5m")
        ours.kubectl("delete", "deployment", "sample")
        theirs.kubectl("delete", SERVICES, "sample")
        for space in (ours, theirs):
            wait_until_collected(space)
        yield template
    finally:
        for space in spaces:
            space.kubectl("delete", "namespace", space.name, "--wait=false")


def wait_until_collected(space: Namespace) -> None:
    """Wait for garbage collection of everything that Kubernetes and Knative made of deleted objects."""
    for kind in ("revisions.serving.knative.dev", "routes.serving.knative.dev", "replicasets", "pods"):
        eventually(lambda kind=kind: not space.list(kind), 300, f"no {kind} are left")  # type: ignore[misc]


class Block:
    """One block of one arm."""

    def __init__(self, client: Client, api: HttpClient, arm: str, count: int, template: Json) -> None:
        self._client = client
        self._arm = arm
        self._space = SPACES[arm]
        self._names = [f"{arm}-{number:03}" for number in range(count)]
        self._template = template
        self._objects = Watcher(api, READY[arm][0], self._space)
        self._services = Watcher(api, KNATIVE_SERVICES, self._space)
        self._pods = Watcher(api, PODS, self._space)

    async def run(self) -> dict[str, Step]:
        """Create, update and delete; the steps by name."""
        return {
            "create": await self._change(0, {}),
            "update": await self._change(1, await self._objects.generations()),
            "delete": await self._delete(),
        }

    async def _change(self, number: int, generations: dict[str, int]) -> Step:
        """``generations``: those before the change."""
        ready = all_ready(self._arm, self._names, generations)
        return await self._step("apply", number, self._objects.until(ready), lambda: self._pods.until(none))

    async def _delete(self) -> Step:
        async def collected() -> None:
            await asyncio.to_thread(wait_until_collected, self._space)

        return await self._step("delete", 0, self._gone(), collected)

    async def _gone(self) -> None:
        """Return once neither the objects nor their Knative Services exist."""
        names = frozenset(self._names)
        for watcher in (self._objects, self._services):
            # Knative has made Deployments as well, for the revisions.
            await watcher.until(lambda objects: not names & objects.keys())

    async def _step(self, verb: str, number: int, done: Awaitable[None], rest: Callable[[], Awaitable[None]]) -> Step:
        documents = [self._manifest(name, number) for name in self._names]
        before = await measured(self._client)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": documents}, file)
            file.flush()
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                "kubectl",
                verb,
                "-n",
                self._space.name,
                "-f",
                file.name,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )

            async def command() -> float:
                _, said = await process.communicate()
                if process.returncode:
                    raise SystemExit(f"kubectl {verb} failed: {said.decode()}")
                return time.perf_counter() - began

            async def all_done() -> float:
                # A deletion is done only after it has begun: there are objects until then.
                await done
                return time.perf_counter() - began

            command_seconds, done_seconds = await asyncio.gather(command(), all_done())
        note(f"{self._arm}: kubectl {verb}: {command_seconds:.1f} s, done after {done_seconds:.1f} s")
        await rest()
        return Step(command_seconds, done_seconds, (await measured(self._client)).since(before))

    def _manifest(self, name: str, number: int) -> Json:
        return model(name, number) if self._arm == MODELS else bare(name, number, self._template)


# --- The report


def mean(values: Iterable[float]) -> float:
    return statistics.mean(list(values))


Results = dict[str, list[dict[str, Step]]]
"""The blocks of each arm: the steps by name."""

TIMES = {
    "create": ("`kubectl apply`", "all Ready"),
    "update": ("`kubectl apply` of a change", "all Ready again"),
    "delete": ("`kubectl delete`", "all gone, with their Knative Services"),
}


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def costs(found: Results) -> str:
    """The main table: seconds and CPU of each step, and the ratios."""

    def row(title: str, value: Callable[[Step], float], step: str) -> list[str]:
        ours, theirs = (mean(value(block[step]) for block in found[arm]) for arm in (MODELS, BARE))
        return [title, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}" if theirs else ""]

    rows: list[list[str]] = []
    for step, (command, done) in TIMES.items():
        rows.append(row(f"{step}: {command}, s", lambda each: each.command, step))
        rows.append(row(f"{step}: {done}, s", lambda each: each.done, step))
        rows.append(row(f"{step}: the API server's CPU, s", lambda each: each.usage.api_server, step))
        for who in ("leader", "others"):
            title = {"leader": "the leader's CPU, s", "others": "the other replica's CPU, s"}[who]
            rows.append(row(f"{step}: {title}", lambda each, who=who: getattr(each.usage, who), step))  # type: ignore[misc]
            rows[-1][-1] = ""
    return table(["", "models", "bare", "÷ bare"], rows)


def counted(found: Results, arm: str, step: str, what: str, count: int) -> dict[Any, float]:
    """A counter of a step, per object: the mean of the blocks."""
    blocks = [getattr(block[step].usage, what) for block in found[arm]]
    return {key: mean(each[key] for each in blocks) / count for key in {key for each in blocks for key in each}}


def calls(found: Results, step: str, count: int) -> str:
    """Calls per object by verb and resource."""
    ours, theirs = (counted(found, arm, step, "calls", count) for arm in (MODELS, BARE))
    keys = sorted(ours.keys() | theirs.keys(), key=lambda key: theirs.get(key, 0) - ours.get(key, 0))
    rows = [
        [" ".join(key), f"{ours.get(key, 0):.1f}", f"{theirs.get(key, 0):.1f}"]
        for key in keys
        if key[1] not in IGNORED and max(ours.get(key, 0), theirs.get(key, 0)) >= LEAST
    ]
    total = [f"{sum(each.values()):.1f}" for each in (ours, theirs)]
    return table([f"{step}: calls per object", MODELS, BARE], [*rows, ["all", *total]])


def own(found: Results, count: int) -> str:
    """What kubectl-serve itself does for each model."""
    rows = []
    for what, title in (("writes", "write"), ("turns", "turn"), ("reviews", "review")):
        by_step = {step: counted(found, MODELS, step, what, count) for step in TIMES}
        names = sorted({str(name) for each in by_step.values() for name in each})
        if what == "reviews":
            names = [name for name in names if name.endswith(".kubectl-serve.dev")]
        for name in names:
            values = [by_step[step].get(name, 0.0) for step in TIMES]
            if max(values) >= LEAST:
                rows.append([f"{title}: {name}", *(f"{value:.1f}" for value in values)])
    return table(["kubectl-serve, per model", *TIMES], rows)


async def run(args: argparse.Namespace) -> None:
    order = [(MODELS, BARE) if number % 2 == 0 else (BARE, MODELS) for number in range(args.rounds)]
    found: Results = {MODELS: [], BARE: []}
    access = await Connection.of_kubeconfig()
    async with (
        connected() as client,
        HttpClient(access, user_agent="bench", field_manager="bench", request_seconds=30, connect_seconds=10) as api,
    ):
        with prepared() as template:
            for arm in (arm for arms in order for arm in arms):
                found[arm].append(await Block(client, api, arm, args.models, template).run())
    print(f"{args.models} objects in each block, {args.rounds} blocks of each arm.\n")
    print(costs(found))
    print(own(found, args.models))
    for step in TIMES:
        print(calls(found, step, args.models))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench many", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=100, help="objects in each block")
    parser.add_argument("--rounds", type=int, default=2, help="blocks of each arm; an even number cancels a drift")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
