"""Random sequences of changes to a Deployment, and what must be true after them."""

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

from cluster.api_server import ApiServer
from cluster.support import (
    PREFIX,
    PYTHON_IMAGE,
    READY,
    RESTRICTED,
    SERVER,
    Json,
    Namespace,
    annotation,
    condition,
    eventually,
)
from serve_core.api import annotations, serving_spec, state
from serve_core.api.annotations import MODEL
from serve_core.base.constants import CONDITION_MODEL_LOADED, DEPLOYMENT_LABEL, REGISTERED, SERVED_LABEL
from serve_core.knative import traffic

NAME = "m"
QUIET_SECONDS = 3.0
"""Seconds without a write at the end."""

DEPLOYMENTS = "apps/v1/deployments"
KNATIVE_SERVICES = "serving.knative.dev/v1/services"
SERVICES = "v1/services"
AUTOSCALERS = "autoscaling/v2/horizontalpodautoscalers"
POLICIES = "security.istio.io/v1/authorizationpolicies"
OWNED = (
    KNATIVE_SERVICES,
    "serving.knative.dev/v1beta1/domainmappings",
    SERVICES,
    AUTOSCALERS,
    "security.istio.io/v1/peerauthentications",
    "security.istio.io/v1/requestauthentications",
    POLICIES,
    "telemetry.istio.io/v1/telemetries",
)
CLAIMS = "/apis/networking.internal.knative.dev/v1alpha1/clusterdomainclaims"

OF_OTHERS = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        "deployment.kubernetes.io/revision",
        "serving.knative.dev/creator",
        "serving.knative.dev/lastModifier",
        "autoscaling.alpha.kubernetes.io/conditions",
    }
)
VALUES: dict[str, tuple[str | None, ...]] = {
    "mode": ("deployment", "deployment", "knative", None),
    "scale": ("0..2", "1..2", "1", None),
    "visibility": ("cluster-local", "public", None),
    "domain": ("own.example.com", None),
    "canary": ("50%", "20%", None),
    "pin": (f"{NAME}-00001", f"{NAME}-00002", None),
    "target": ("50", None),
    "timeout": ("60s", None),
    "concurrency": ("5", None),
}
VALUES_OF_THE_MESH: dict[str, tuple[str | None, ...]] = {
    "telemetry": ("access-log", "trace=10%", None),
    "auth": ("mtls", "none", None),
    "mesh": ("none", "istio", None),
}
WEIGHTS = {
    "apply_again": 2.0,
    "change_annotation": 7.0,
    "change_mode": 2.0,
    "change_model": 2.0,
    "take_back": 3.0,
    "serve": 8.0,
    "delete": 1.0,
    "recreate": 1.5,
    "scale": 1.0,
    "edit_replicas": 1.0,
    "restart": 1.0,
    "set_environment": 1.0,
    "label": 1.0,
    "take_off_what_is_ours": 1.0,
    "tamper": 4.0,
    "others_come": 1.0,
    "others_go": 1.0,
    "enter_or_leave_the_mesh": 1.0,
    "kill": 1.0,
}
"""The operations, methods of :class:`Sequence`, and how often each is drawn."""

_CODE = (
    "import http.server, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); "
    "http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)"
)


def path(namespace: str, kind: str, name: str = "") -> str:
    group, _, plural = kind.rpartition("/")
    root = "/api/v1" if group == "v1" else f"/apis/{group}"
    return f"{root}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def written(model: str | None, replicas: int) -> Json:
    """A Deployment with a custom server, which starts and stops fast."""
    container: Json = {
        "name": "server",
        "image": PYTHON_IMAGE,
        "command": ["/opt/mlserver/bin/python", "-c", _CODE],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
        "workingDir": "/tmp",
    }
    labels = {"app": NAME}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return bare(model) | {
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def bare(model: str | None) -> Json:
    notes = {MODEL: model} if model else {}
    metadata = {"name": NAME, "annotations": notes, "labels": {"team": "a"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}


class Sequence:
    """One Deployment in a separate namespace, the operations on it, and what its author wrote last."""

    def __init__(self, name: str, web: str) -> None:
        """``name`` is also the seed; ``web`` is the address of a server that has ``model.joblib``."""
        self._draw = random.Random(name)
        self._model, self._missing = f"{web}/model.joblib", f"{web}/missing.joblib"
        self.live, self.alone = Namespace(f"converge-{name}"), Namespace(f"converge-{name}-alone")
        self.done: list[str] = []
        self.operations: list[str] = []
        self._started = time.monotonic()
        self._api = ApiServer()
        self._in_a_mesh = self._api.request("GET", "/apis/security.istio.io/v1")[0] == 200
        self._wrote: Json | None = None
        self._gone_by = ""
        self._orphaned, self._name_was_taken, self._mesh_changed = False, False, False

    def __enter__(self) -> Self:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        for namespace in (self.live, self.alone):
            made: Json = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name}}
            made["metadata"]["labels"] = labels
            assert self._until(partial(self._is_made, "/api/v1/namespaces", made), 120), (
                "that of an earlier run is there"
            )
            claim: Json = {"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "ClusterDomainClaim"}
            claim |= {"metadata": {"name": domain(namespace)}, "spec": {"namespace": namespace.name}}
            self._send("POST", CLAIMS, claim)
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (self.live, self.alone):
            self._api.request("DELETE", f"/api/v1/namespaces/{namespace.name}")
            self._api.request("DELETE", f"{CLAIMS}/{domain(namespace)}")
        self._api.__exit__()

    def run(self) -> None:
        """Run the drawn operations, then compare."""
        self._say(self._create())
        for _ in range(self._draw.randint(6, 14)):
            self._step()
        if self._mesh_changed and self._wrote is not None:
            time.sleep(2)  # until the server has seen the namespace's label
            self._edit({"metadata": {"annotations": {"touched": "at last"}}})  # the completed fields stay until then
        self._settle()

    def _step(self) -> None:
        if self._wrote is None:
            name, said = "create", self._create()
        else:
            name = self._draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            said = getattr(self, f"_{name}")()
        if not said:
            return
        self._say(said)
        self.operations.append(name)
        pause = self._draw.choice((0.0, 0.0, 0.0, 0.3, 1.0, 3.0, 15.0))
        if pause < 15:
            time.sleep(pause)  # the next operation comes at any time
        elif self._served:
            self._until(lambda: condition(self._stored(), READY).get("status") in ("True", "False"), pause)

    # Writing

    def _say(self, text: str) -> None:
        self.done.append(f"{time.monotonic() - self._started:6.1f} s: {text}")

    def _until(self, check: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not check():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _send(self, method: str, where: str, document: Json | None = None) -> int:
        """Send a request until the server, which may have been killed, answers. Returns the status."""
        answers: list[tuple[int, Json]] = []

        def is_answered() -> bool:
            answers.append(self._api.request(method, where, document))
            return answers[-1][0] < 500 and answers[-1][0] != 429

        assert self._until(is_answered, 120), answers[-1]
        status, body = answers[-1]
        if status >= 400:
            self._say(f"  {status}: {str(body.get('message'))[:200]}")
        return status

    def _is_made(self, where: str, document: Json) -> bool:
        return self._send("POST", where, document) == 201

    def _kubectl(self, *words: str, document: Json | None = None) -> bool:
        """The same with kubectl. Returns whether it was accepted."""
        errors: list[str] = []

        def is_answered() -> bool:
            stdin = None if document is None else json.dumps(document)
            done = self.live.run("kubectl", *words, stdin=stdin, check=False)
            errors.append(done.stderr.strip() if done.returncode else "")
            return "failed calling webhook" not in errors[-1] and "InternalError" not in errors[-1]

        assert self._until(is_answered, 120), errors[-1]
        if errors[-1]:
            self._say(f"  refused: {errors[-1][:200]}")
        return not errors[-1]

    def _stored(self) -> Json:
        return self._api.request("GET", path(self.live.name, DEPLOYMENTS, NAME))[1]

    def _edit(self, patch: Json) -> bool:
        """A write of the Deployment's author. Returns whether it was accepted."""
        if self._send("PATCH", path(self.live.name, DEPLOYMENTS, NAME), patch) != 200:
            return False
        self._wrote = merged(self._wrote or {}, patch)
        return True

    def _annotate(self, **notes: str | None) -> bool:
        return self._edit({"metadata": {"annotations": {PREFIX + key: value for key, value in notes.items()}}})

    # Operations of the author

    @property
    def _notes(self) -> dict[str, str]:
        return self._wrote["metadata"].get("annotations", {}) if self._wrote else {}

    @property
    def _served(self) -> bool:
        return MODEL in self._notes

    @property
    def _by_knative(self) -> bool:
        return self._served and self._notes.get(annotations.MODE) != annotations.DEPLOYMENT

    @property
    def _has_a_server(self) -> bool:
        return bool(self._wrote) and "selector" in (self._wrote or {}).get("spec", {})

    def _uri(self) -> str:
        if self._wrote is not None and not self._has_a_server:
            return self._missing  # no real model server starts
        return self._draw.choice((self._model, self._model, self._missing))

    def _create(self) -> str:
        model = self._draw.choice((self._uri(), self._uri(), None))
        made = written(model, self._draw.choice((1, 1, 2, 0)))
        way = self._draw.choice((("apply",), ("apply", "--server-side"), ("create",), ("create", "--save-config")))
        if self._draw.random() < 0.25:
            made = bare(self._missing)
        here = path(self.live.name, DEPLOYMENTS, NAME)
        assert self._until(lambda: self._api.request("GET", here)[0] == 404, 120), "the one before it is still there"
        assert self._kubectl(*way, "-f", "-", document=made)
        self._wrote, self._name_was_taken = made, self._is_taken()
        return (
            f"{' '.join(way)}: model {made['metadata']['annotations']}, {made.get('spec', {}).get('replicas')} replicas"
        )

    def _apply_again(self) -> str:
        way = self._draw.choice((("apply",), ("apply", "--server-side", "--force-conflicts"), ("replace",)))
        self._kubectl(*way, "-f", "-", document=self._wrote)
        return " ".join(way)

    def _change_annotation(self) -> str:
        if not self._served:
            return ""
        values = VALUES | (VALUES_OF_THE_MESH if self._in_a_mesh else {})
        key = self._draw.choice(sorted(values))
        value = self._draw.choice(values[key])
        value = domain(self.live) if value and key == "domain" else value
        return f"{key} = {value}: {self._annotate(**{key: value})}"

    def _change_mode(self) -> str:
        mode = annotations.DEPLOYMENT if self._by_knative else None
        return f"mode = {mode}: {self._annotate(mode=mode)}" if self._served else ""

    def _change_model(self) -> str:
        uri = self._uri()
        return f"model = {uri}: {self._annotate(model=uri)}" if self._served else ""

    def _take_back(self) -> str:
        ours = [key for key in self._notes if key.startswith(PREFIX)]
        done = ours and self._edit({"metadata": {"annotations": dict.fromkeys(ours)}})
        return f"take the annotations off: {done}" if ours else ""

    def _serve(self) -> str:
        return "" if self._served else f"serve it: {self._annotate(model=self._uri())}"

    def _delete(self) -> str:
        self._gone_by = self._draw.choice(("background", "background", "foreground", "orphan"))
        wait = self._draw.choice(("true", "false"))
        self._kubectl("delete", "deployment", NAME, f"--cascade={self._gone_by}", f"--wait={wait}")
        self._wrote = None
        self._orphaned |= self._gone_by == "orphan"
        return f"delete it in the way {self._gone_by}, wait {wait}"

    def _recreate(self) -> str:
        before, said = self._wrote, self._delete()
        where = path(self.live.name, DEPLOYMENTS)
        assert self._until(partial(self._is_made, where, before or {}), 120)
        self._wrote, self._name_was_taken = before, self._is_taken()
        return f"{said}, and create it as it was"

    def _scale(self) -> str:
        number = self._draw.choice(self._numbers())
        done = self._kubectl("scale", f"deployment/{NAME}", f"--replicas={number}")
        if done:  # or it is parked
            self._wrote = merged(self._wrote or {}, {"spec": {"replicas": number}})
        return f"scale to {number}: {done}"

    def _edit_replicas(self) -> str:
        number = self._draw.choice(self._numbers())
        return f"spec.replicas = {number}: {self._edit({'spec': {'replicas': number}})}"

    def _numbers(self) -> tuple[int, ...]:
        """Of replicas. While Knative runs it, 0 is nothing new or, until it has been handed over, the user's word."""
        return (1, 2) if self._by_knative else (0, 1, 2)

    def _restart(self) -> str:
        """As ``kubectl rollout restart``."""
        at = f"2026-01-01T00:00:{self._draw.randrange(60):02d}Z"
        template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": at}}}
        return f"restarted at {at}: {self._edit({'spec': {'template': template}})}"

    def _set_environment(self) -> str:
        if self._wrote is None or not self._has_a_server:
            return ""
        value = str(self._draw.randrange(100))
        done = self._kubectl("set", "env", f"deployment/{NAME}", "--containers=server", f"COLOUR={value}")
        if done:
            self._wrote = copy.deepcopy(self._wrote)
            (server,) = self._wrote["spec"]["template"]["spec"]["containers"]
            server["env"] = [{"name": "COLOUR", "value": value}]
        return f"COLOUR={value}: {done}"

    def _label(self) -> str:
        key, value = self._draw.choice(("team", "tier")), self._draw.choice(("a", "b", None))
        return f"label {key} = {value}: {self._edit({'metadata': {'labels': {key: value}}})}"

    # Operations of others

    def _take_off_what_is_ours(self) -> str:
        where, name = self._draw.choice((("labels", SERVED_LABEL), ("annotations", annotations.REPLICAS)))
        done = self._send("PATCH", path(self.live.name, DEPLOYMENTS, NAME), {"metadata": {where: {name: None}}})
        return f"take off {name}: {done}"

    def _tamper(self) -> str:
        found = self._owned(self.live)
        if not found:
            return ""
        kind, each = self._draw.choice(found)
        metadata = each["metadata"]
        ways = ["delete", "spec"]
        # One without both would belong to another owner. Knative hands the label on to its Service, whose name may then
        # be thought to be taken.
        # Nor is one still wanted whose name others have taken just now.
        wanted = (KNATIVE_SERVICES if self._by_knative else SERVICES, annotation(self._stored(), "service") or NAME)
        if (
            self._served
            and (kind, metadata["name"]) == wanted
            and not (metadata["name"] == NAME and self._is_taken())
            and metadata.get("labels", {}).get(DEPLOYMENT_LABEL) == NAME
        ):
            ways.append("owner")
        if metadata.get("ownerReferences") and kind != KNATIVE_SERVICES:
            ways += ["label", "another label"]
        way, where = self._draw.choice(ways), path(self.live.name, kind, metadata["name"])
        changes: dict[str, Json] = {
            "owner": {"metadata": {"ownerReferences": None}},
            "label": {"metadata": {"labels": {DEPLOYMENT_LABEL: None}}},
            "another label": {"metadata": {"labels": {DEPLOYMENT_LABEL: "another"}}},
            "spec": {"spec": self._draw.choice(tampered(kind))},
        }
        done = self._send("PATCH", where, changes[way]) if way != "delete" else self._delete_by_hand(where)
        if way == "owner":  # it is taken back while it is wanted, and by no one later
            assert self._until(lambda: self._is_owned_or_gone(where), 60), f"{metadata['name']} is still an orphan"
        return f"tamper with {kind} {metadata['name']}, {way}: {done}"

    def _delete_by_hand(self, where: str) -> int:
        # Not "Orphan": Knative refuses to let go of a Configuration and a Route, and the Service would stay for ever.
        policy = self._draw.choice(("Background", "Foreground"))
        return self._send("DELETE", f"{where}?propagationPolicy={policy}")

    def _is_owned_or_gone(self, where: str) -> bool:
        status, found = self._api.request("GET", where)
        return status == 404 or bool(found["metadata"].get("ownerReferences"))

    def _is_taken(self) -> bool:
        found = self._api.request("GET", path(self.live.name, SERVICES, NAME))[1]
        return bool(found["metadata"].get("labels", {}).get("by") == "others")

    def _others_come(self) -> str:
        status = self._send("POST", path(self.live.name, SERVICES), of_others())
        self._name_was_taken |= status == 201
        return f"a Service of others that has its name: {status}"

    def _others_go(self) -> str:
        if not self._is_taken():
            return ""
        return f"the Service of others goes: {self._send('DELETE', path(self.live.name, SERVICES, NAME))}"

    def _enter_or_leave_the_mesh(self) -> str:
        if not self._in_a_mesh:
            return ""
        patch = {"metadata": {"labels": {"istio-injection": self._draw.choice(("enabled", None))}}}
        for namespace in (self.live, self.alone):
            self._send("PATCH", f"/api/v1/namespaces/{namespace.name}", patch)
        self._mesh_changed = True
        return str(patch["metadata"])

    def _kill(self) -> str:
        """The leader, or every replica, without grace period, as in a crash."""
        pods = [pod["metadata"]["name"] for pod in SERVER.list("pods")]
        leader = " ".join(lease["spec"].get("holderIdentity", "") for lease in SERVER.list("leases"))
        killed = [pod for pod in pods if pod in leader] if self._draw.random() < 0.7 else pods
        flags = ("--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
        SERVER.run("kubectl", "delete", "pod", *killed, *flags, check=bool(killed)) if killed else None
        return f"kill {len(killed)} of the server's replicas"

    # Checks at the end

    def _settle(self) -> None:
        if self._wrote is not None:
            self._create_alone(self._wrote)
        self._wait_until_alike(90)
        eventually(lambda: not self._moving(), 40, "nothing is written any more")
        self._wait_until_alike(10)  # a pod's probe may fail once on a busy machine
        if self._wrote is not None:
            assert self._kubectl("apply", "-f", "-", document=self._wrote)
            shown = self.live.run("kubectl", "serve", "diff", "-f", "-", stdin=json.dumps(self._wrote), check=False)
            assert (shown.returncode, shown.stdout) == (0, ""), f"there is a difference: {shown.stdout}{shown.stderr}"
            self._wait_until_alike(60)

    def _wait_until_alike(self, seconds: float) -> None:
        found = ["nothing was compared"]

        def is_alike() -> bool:
            found[:] = self._differences()
            return not found

        assert self._until(is_alike, seconds), f"still after {seconds} s: " + "\n".join(found)

    def _create_alone(self, document: Json) -> None:
        """Create in the second namespace what the author wrote in the first."""
        made: Json = json.loads(json.dumps(document).replace(self.live.name, self.alone.name))
        if self._is_taken():
            assert self._send("POST", path(self.alone.name, SERVICES), of_others()) == 201
        name = annotation(self._stored(), "service")
        if self._name_was_taken and self._served and name:
            made["metadata"]["annotations"][annotations.SERVICE] = name  # it stays although others are deleted
        assert self._send("POST", path(self.alone.name, DEPLOYMENTS), made) == 201

    def _owned(self, namespace: Namespace) -> list[tuple[str, Json]]:
        """The objects that a Deployment owns or owned, each with its kind."""
        found = []
        for kind in OWNED:
            status, listed = self._api.request("GET", path(namespace.name, kind))
            for each in listed["items"] if status == 200 else ():
                owners = each["metadata"].get("ownerReferences", [])
                is_labelled = DEPLOYMENT_LABEL in each["metadata"].get("labels", {})
                if all(owner["kind"] == "Deployment" for owner in owners) and (owners or is_labelled):
                    found.append((kind, each))
        return found

    def _moving(self) -> bool:
        """Whether anything is written within a few seconds."""

        def versions() -> list[str]:
            found = [self._stored(), *(each for _, each in self._owned(self.live))]
            return [each.get("metadata", {}).get("resourceVersion", "") for each in found]

        before = versions()
        time.sleep(QUIET_SECONDS)  # there is no event for the absence of events
        return versions() != before

    def _differences(self) -> list[str]:
        """The differences from the expected state."""
        status, live = self._api.request("GET", path(self.live.name, DEPLOYMENTS, NAME))
        if self._wrote is None:
            left = [] if self._gone_by == "orphan" else [each["metadata"] for _, each in self._owned(self.live)]
            return [f"it is still there: {each}" for each in ([live] if status == 200 else left)]
        alone = self._api.get(path(self.alone.name, DEPLOYMENTS, NAME))
        one, two = self._state(self.live, live), self._state(self.alone, alone)
        if one["conditions"][READY][0] == "False":
            # The old pods serve until the new ones do.
            before = (f"{KNATIVE_SERVICES}/", f"{SERVICES}/")
            for key in [key for key in one if key.startswith(before) and key not in two]:
                one.pop(key, None)  # or it was deleted with another
                for each in (one, two):
                    each.pop(f"{SERVICES}/{NAME}", None)
        wrong = [*differing(one, two), *self._untrue(self.live, live)]
        return wrong + [f"alone: {each}" for each in self._untrue(self.alone, alone)]

    def _state(self, namespace: Namespace, deployment: Json) -> Json:
        """The objects, without those of others, the namespace's name, and the history of revisions."""
        found: Json = {"deployment": shown(deployment)}
        notes = found["deployment"]["annotations"]
        if notes.get(annotations.HANDOVER) == "to-knative":  # until its Knative Service serves
            del notes[annotations.HANDOVER]
            found["deployment"]["spec"] = {k: v for k, v in deployment["spec"].items() if k != "paused"} | {
                "replicas": 0
            }
        for kind, each in self._owned(namespace):
            owners = each["metadata"].get("ownerReferences", [])
            if self._orphaned and not owners and (kind != KNATIVE_SERVICES or not self._served):
                continue  # the author asked for another mode
            made = shown(each)
            for key in ("traffic", "clusterIP", "clusterIPs"):
                made["spec"].pop(key, None)
            uid = deployment["metadata"]["uid"]
            made["owned"] = [owner["uid"] == uid and owner.get("controller") for owner in owners]
            found[f"{kind}/{each['metadata']['name']}"] = made
        found["conditions"] = {
            kind: [condition(deployment, kind).get(key) for key in ("status", "reason")]
            for kind in (CONDITION_MODEL_LOADED, READY)
        }
        text: Json = json.loads(json.dumps(found).replace(self.alone.name, self.live.name))
        return text

    def _untrue(self, namespace: Namespace, deployment: Json) -> Iterator[str]:
        """Conditions and annotations of the Deployment that are wrong."""
        notes, spec, status = deployment["metadata"].get("annotations", {}), deployment["spec"], deployment["status"]
        generation, ready = deployment["metadata"]["generation"], condition(deployment, READY)
        if status.get("observedGeneration") != generation:
            yield "its controller has not seen it"
        recorded = state.read(deployment)
        if self._served and recorded.observed_generation != generation:
            yield f"generation {recorded.observed_generation} of {generation} was observed"
        if ready.get("status") == "Unknown" and ready["reason"] != REGISTERED:  # none of these models is asked
            yield f"it is unknown whether it is ready: {ready['message']}"
        handed = annotations.HANDOVER in notes
        if handed and (ready.get("status") == "True" or not self._served):
            yield f"handover {notes[annotations.HANDOVER]}"
        wanted = 0 if self._by_knative and not handed else spec["replicas"]
        pods = [
            pod
            for pod in self._api.get(f"/api/v1/namespaces/{namespace.name}/pods")["items"]
            if "deletionTimestamp" not in pod["metadata"]
            and "serving.knative.dev/revision" not in pod["metadata"].get("labels", {})
        ]
        is_stuck = (handed or not self._by_knative) and ready.get("status") == "False"  # between two templates
        if len(pods) != wanted and not self._orphaned and not is_stuck:
            yield f"{len(pods)} pods of its own, not {wanted}"
        if ready.get("status") != "False" and status.get("availableReplicas", 0) != wanted:
            yield f"{status.get('availableReplicas', 0)} of {wanted} replicas are available"
        if self._by_knative:
            yield from self._untrue_of_knative(namespace, notes, recorded, ready)

    def _untrue_of_knative(
        self, namespace: Namespace, notes: dict[str, str], recorded: state.State, ready: Json
    ) -> Iterator[str]:
        name = notes.get(annotations.SERVICE, NAME)
        found = (each for kind, each in self._owned(namespace) if kind == KNATIVE_SERVICES)
        service = next((each for each in found if each["metadata"]["name"] == name), None)
        asked, _ = serving_spec.read(notes)
        if service is None or asked is None:
            return
        shares = [
            {key: value for key, value in each.items() if (key, value) != ("latestRevision", False)}
            for each in service["spec"].get("traffic", [])
        ]
        wanted = traffic.targets(asked, recorded, {}) or [{"latestRevision": True, "percent": 100}]
        if shares != wanted:
            yield f"traffic {shares}, not {wanted}"
        if ready.get("status") != "True":
            return
        if condition(service, "Ready").get("status") != "True":
            yield "it says Ready although its Knative Service does not"
        latest = service.get("status", {}).get("latestReadyRevisionName")
        if not asked.canary and not asked.pin and recorded.promoted != latest:
            yield f"{recorded.promoted} is promoted, not {latest}"


def domain(namespace: Namespace) -> str:
    return f"{namespace.name}.example.com"


def of_others() -> Json:
    metadata = {"name": NAME, "labels": {"by": "others"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}


def tampered(kind: str) -> list[Json]:
    """Changes that users may write into the spec of an owned object."""
    if kind == KNATIVE_SERVICES:
        return [
            {"template": {"metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "7"}}}},
            {"template": {"spec": {"timeoutSeconds": 77}}},
            {"traffic": [{"latestRevision": True, "percent": 100, "tag": "theirs"}]},
        ]
    others: dict[str, Json] = {
        AUTOSCALERS: {"maxReplicas": 9},
        POLICIES: {"rules": [{}]},
        SERVICES: {"ports": [{"name": "http", "port": 81, "targetPort": 8081}]},
    }
    return [others.get(kind, {})]


def merged(document: Json, patch: Json) -> Json:
    """RFC 7396."""
    made = {key: value for key, value in document.items() if patch.get(key, ...) is not None}
    for key, value in patch.items():
        if isinstance(value, dict):
            made[key] = merged(made.get(key) or {}, value)
        elif value is not None:
            made[key] = value
    return made


def shown(manifest: Json) -> Json:
    metadata, hidden = manifest["metadata"], OF_OTHERS
    notes = {key: value for key, value in metadata.get("annotations", {}).items() if key not in hidden}
    return {"labels": metadata.get("labels", {}), "annotations": notes, "spec": copy.deepcopy(manifest["spec"])}


def differing(one: Any, two: Any, at: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted(one.keys() | two.keys()):
            yield from differing(one.get(key), two.get(key), f"{at}/{key}")
    elif one != two:
        yield f"{at}: {json.dumps(one)[:500]}, alone {json.dumps(two)[:500]}"
