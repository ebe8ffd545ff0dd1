"""An unreadable object is left out and named, and all others are shown."""

import copy
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kubectl_serve.commands import get
from kubectl_serve.io.readable import fault
from kubectl_serve.status import follow
from kubectl_serve.status.follow import WaitPolicy
from serve_core.base.json import JsonObject
from serve_kube.resources import Resource
from serve_kube.watch import WatchEvent
from support.fake_cluster import FakeCluster, at_the_end, recorded
from unit.kubectl_serve.conftest import Run
from unit.kubectl_serve.test_doctor import healthy

WRONG: list[Any] = [None, True, 0, -1, 10**400, 1.5, "", "text", [], [[]], [1], ["text"], {}, {"a": []}, {"": {"": 1}}]


@dataclass
class Hostile(FakeCluster):
    """Answers as the cluster would, with another object in the place of one."""

    place: JsonObject | None = None
    other: Any = None

    def _sent(self, found: JsonObject) -> Any:
        return copy.deepcopy(self.other) if found == self.place else found

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        sent: JsonObject = self._sent(await super().get(resource, namespace, name))
        return sent

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        found, version = await super().list(resource, namespace, labels=labels, fields=fields)
        return [self._sent(each) for each in found], version

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[JsonObject]]:
        async for event in super().watch(resource, namespace, version, labels=labels, fields=fields):
            yield WatchEvent(event.type, self._sent(event.object))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within ``value``."""
    if path:
        yield path
    for step, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*path, step))


def with_another(thing: JsonObject, path: tuple[Any, ...], value: Any) -> JsonObject:
    made = copy.deepcopy(thing)
    node: Any = made
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = copy.deepcopy(value)
    return made


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get, "WAIT_POLICY", WaitPolicy(0.0, 0.0, 0.0))
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0.0)


def models() -> list[JsonObject]:
    foreign: list[JsonObject] = [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "kserves", "namespace": "models"},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://a/b"}}},
        },
        {
            "apiVersion": "kubectl-serve.dev/v1alpha1",
            "kind": "ServingPolicy",
            "metadata": {"name": "pinned"},
            "spec": {"rules": [{"name": "pinned", "pinned": True}]},
        },
        {
            "apiVersion": "kubectl-serve.dev/v1alpha1",
            "kind": "PolicyException",
            "metadata": {"name": "until", "namespace": "kubectl-serve"},
            "spec": {
                "policy": "pinned",
                "rules": ["pinned"],
                "match": {"namespace": "models", "name": "iris"},
                "expires": "2027-01-01T00:00:00Z",
                "reason": "r",
                "ticket": "t",
            },
        },
    ]
    return [*at_the_end("iris"), *at_the_end("nope"), *recorded("around"), *foreign]


def mesh() -> list[JsonObject]:
    token: JsonObject = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "t", "namespace": "istio-system"},
        "spec": {"jwtRules": [{"issuer": "https://a.example.com"}]},
    }
    peer: JsonObject = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "istio-system"},
        "spec": {"mtls": {"mode": "STRICT"}, "portLevelMtls": {"8443": {"mode": "PERMISSIVE"}}},
    }
    return [token, peer]


COMMANDS = [
    "get",
    "get -o wide",
    "get -A -o json",
    "describe iris",
    "describe nope -o yaml",
    "logs iris",
    "logs nope -c loader",
    "predict iris [[1]] --ingress http://127.0.0.1:9",
    "promote iris --timeout 1s",
    "rollback iris --dry-run",
    "rollback iris --to iris-00001 --dry-run",
    "delete iris --wait=false",
    "policy list",
    "policy audit -A --all",
    "policy explain iris",
    "runtimes",
    "runtimes --outdated",
    "doctor",
]
TRIES = 12


@pytest.mark.parametrize("command", COMMANDS)
def test_an_object_of_any_shape_is_no_traceback(command: str, run: Run) -> None:
    random_ = random.Random(command)
    objects = [*healthy().objects, *mesh()] if command == "doctor" else [*models(), *healthy().objects]
    every = [(each, path) for each in objects for path in places(each)]
    for place, path in random_.sample(every, TRIES):
        other = with_another(place, path, random_.choice(WRONG))
        cluster = Hostile(copy.deepcopy(objects), namespace="models", place=place, other=other)
        cluster.log = defaultdict(lambda: ["line"])
        screen = run(*command.split(), cluster=cluster)
        assert screen.code in (0, 1), (path, other)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("metadata", "labels", "other"), 5, "metadata.labels.other is not a string"),
        (("metadata", "annotations", "a"), ["x"], "metadata.annotations.a is not a string"),
        (("status", "conditions", 0), "Ready", "status.conditions[0] is not an object"),
        (("spec", "template", "spec", "containers"), {}, "spec.template.spec.containers is not a list"),
        (("status", "observedGeneration"), True, "status.observedGeneration is not a whole number"),
    ],
)
def test_what_cannot_be_read_is_named_once_and_the_others_are_shown(
    path: tuple[Any, ...], value: Any, why: str, run: Run
) -> None:
    objects = [*at_the_end("iris"), *at_the_end("nope")]
    place = next(each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "nope")
    cluster = Hostile(objects, namespace="models", place=place, other=with_another(place, path, value))
    screen = run("get", cluster=cluster)
    assert screen.code == 0
    assert screen.err == f"deployment.apps models/nope is left out: {why}.\n"
    assert [line.split()[0] for line in screen.out.splitlines()] == ["NAME", "iris"]
    screen = run("describe", "nope", cluster=cluster)
    assert (screen.code, screen.err) == (
        1,
        (
            f"error: deployment.apps nope cannot be read: {why}.\n"
            "hint: `kubectl get deployment.apps nope -n models -o yaml` shows it.\n"
        ),
    )


def test_null_is_what_is_not_there() -> None:
    thing: JsonObject = {"metadata": {"name": "a", "labels": None, "creationTimestamp": None}, "status": None}
    assert fault(thing) == ""
    assert thing == {"metadata": {"name": "a"}}
