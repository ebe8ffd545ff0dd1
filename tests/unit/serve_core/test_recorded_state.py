"""What the server notes on a Deployment cannot be forged, is small, and survives a second call of the webhook."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from kubectl_serve.install import manifests
from serve_core.admission.completion import completion_record, snapshots
from serve_core.admission.decide import judge, render_stored
from serve_core.api import annotations
from serve_core.api.annotation_values import Format
from serve_core.api.annotations import COMPLETED_WITH, FILLED, HANDOVER, MODEL, REPLICAS, SERVICE, STATE
from serve_core.api.runtimes import Runtime, spec_document
from serve_core.base import overlay
from serve_core.base.constants import PREFIX, SERVED_LABEL
from serve_core.base.json import JsonObject, canonical
from serve_core.context.cluster import ClusterContext, LoaderConfig
from support.recorded_state import with_state

METADATA_SERVICE = "169.254.169.254/32"
SERVER = Runtime("server", (Format("sklearn"),), ("v2",), {"image": "example.com/server:2"}, priority=1)
OTHER = Runtime("other", (Format("pytorch"), Format("sklearn")), ("v2",), {"image": "example.com/other:1"})
EARLIER = replace(SERVER, container={"image": "example.com/server:1"})
WIDE = LoaderConfig("example.com/loader:1", ("10.0.0.0/8", METADATA_SERVICE))

FACTS = ClusterContext(
    LoaderConfig("example.com/loader:2", ("10.0.0.0/8",)),
    (SERVER, OTHER),
    snapshots=snapshots.present(WIDE, (EARLIER,)) | snapshots.present(LoaderConfig("example.com/loader:2"), (SERVER,)),
)
EVIL = LoaderConfig("example.com/evil:1", ("0.0.0.0/0", METADATA_SERVICE))
EVIL_SERVER = Runtime("server", (Format("sklearn"),), ("v2",), {"image": "example.com/evil:1"})


def user_wrote(notes: Mapping[str, str] | None = None, replicas: int | None = None) -> JsonObject:
    spec = {} if replicas is None else {"replicas": replicas}
    metadata = {"name": "iris", "namespace": "ml", "annotations": {MODEL: "s3://models/iris.joblib", **(notes or {})}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def with_notes(deployment: JsonObject, notes: Mapping[str, str | None]) -> JsonObject:
    made = copy.deepcopy(deployment)
    made["metadata"]["annotations"] |= notes
    made["metadata"]["annotations"] = {k: v for k, v in made["metadata"]["annotations"].items() if v is not None}
    return made


def accepted(deployment: JsonObject, previous: JsonObject | None = None, context: ClusterContext = FACTS) -> JsonObject:
    verdict = judge(deployment, context, previous)
    assert verdict.problems == ()
    assert verdict.deployment is not None
    return verdict.deployment


def record(loader: LoaderConfig, runtime: Runtime | None, instead: Mapping[str, Any] | None = None) -> str:
    """A record in the right form: what the choice rests on is right."""
    asks = json.loads(accepted(user_wrote())["metadata"]["annotations"][COMPLETED_WITH])["asked"]
    said = {"asked": asks, "loader": snapshots.digest(loader)}
    if runtime is not None:
        said["runtime"] = {"digest": snapshots.digest(runtime), "name": runtime.name, "protocol": runtime.protocols[0]}
    return canonical({**said, **(instead or {})})


def record_in_full(loader: LoaderConfig, runtime: Runtime) -> str:
    """As the first version wrote it, which believed it."""
    asks = json.loads(record(loader, runtime))["asked"]
    said = {
        "asked": asks,
        "loader": {"image": loader.image, "allowNetworks": list(loader.allow_networks)},
        "runtime": {"name": runtime.name, "spec": spec_document(runtime)},
    }
    return canonical(said)


FORGED = {
    "networks": record_in_full(replace(FACTS.loader, allow_networks=("10.0.0.0/8", METADATA_SERVICE)), SERVER),
    "all networks": record_in_full(replace(FACTS.loader, allow_networks=("0.0.0.0/0", "::/0")), SERVER),
    "loader's image": record_in_full(replace(FACTS.loader, image="example.com/evil:1"), SERVER),
    "runtime's spec": record_in_full(FACTS.loader, EVIL_SERVER),
    "an earlier loader in full": record_in_full(WIDE, EARLIER),
    "an earlier loader": record(WIDE, SERVER),
    "an earlier runtime": record(FACTS.loader, EARLIER),
    "both": record(WIDE, EARLIER),
    "another runtime": record(FACTS.loader, OTHER),
    "another runtime under the name of this": record(
        FACTS.loader, None, {"runtime": {"digest": snapshots.digest(OTHER), "name": "server", "protocol": "v2"}}
    ),
    "what is not kept": record(EVIL, EVIL_SERVER),
    "a runtime for a loader": record(
        FACTS.loader, SERVER, {"loader": snapshots.digest(EARLIER)}
    ),
    "a loader for a runtime": record(
        FACTS.loader, None, {"runtime": {"digest": snapshots.digest(WIDE), "name": "server", "protocol": "v2"}}
    ),
    "no runtime at all": record(FACTS.loader, None),
    **{f"nonsense {text[:12]}": text for text in ("", "null", "[]", "{}", "7", "[" * 100_000, '{"asked": 1}',
        '{"asked":"a","loader":"b","runtime":[]}', '{"loader":{"image":1,"allowNetworks":7}}', "é" * 70_000)},
}  # fmt: skip


@pytest.mark.attack(36)
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_a_user_says_it_was_completed_with_does_not_count(forged: str) -> None:
    stored = accepted(user_wrote())
    assert accepted(user_wrote({COMPLETED_WITH: forged})) == stored, "made"
    assert accepted(with_notes(stored, {COMPLETED_WITH: forged}), stored) == stored, "changed"
    assert accepted(user_wrote({COMPLETED_WITH: forged}), stored) == stored, "replaced"
    plain = user_wrote(replicas=0)
    del plain["metadata"]["annotations"][MODEL]
    assert accepted(with_notes(stored, {COMPLETED_WITH: forged}), plain) == stored, "served from now on"


@pytest.mark.attack(36)
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_was_stored_while_nobody_looked_makes_up_neither_a_loader_nor_a_runtime(forged: str) -> None:
    """While the webhook was not installed anybody could write a record: it can name only what the server keeps."""
    stored = with_notes(accepted(user_wrote()), {COMPLETED_WITH: forged})
    made = accepted(with_notes(stored, {"team": "a"}), stored)
    pod = made["spec"]["template"]["spec"]
    assert "evil" not in canonical(pod)
    known = {each.allow_networks for each in FACTS.known_loaders}
    args = pod["initContainers"][0]["args"]
    networks = tuple(args[at + 1] for at, word in enumerate(args) if word == "--allow-network")
    assert networks in known


@pytest.mark.attack(36)
def test_what_the_server_keeps_counts_only_under_the_digest_of_its_content() -> None:
    kept = snapshots.config_map(FACTS.loader)
    assert snapshots.of_config_map(kept) == FACTS.loader
    for evil in (EVIL, EVIL_SERVER):
        tampered = {**kept, "data": snapshots.config_map(evil)["data"]}
        with pytest.raises(ValueError, match="does not match the digest in its name"):
            snapshots.of_config_map(tampered)


@pytest.mark.attack(36)
@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"loader": 7}', '{"loader": {"image": "a"}}', '{"runtime": {}}', "[" * 100_000,
     '{"loader": {"image": 7, "allowNetworks": []}}', '{"runtime": {"name": "a", "spec": {}}}', "x" * 600_000,
     '{"runtime": {"name": 7, "spec": {}}}', '{"runtime": "\\ud800"}',
     '{"loader": {"image": "a", "allowNetworks": [], "more": 1}}'],
)  # fmt: skip
def test_what_is_no_loader_and_no_runtime_is_refused_whatever_its_name(text: str) -> None:
    for name in ("0" * 16, snapshots._digest(text)):
        with pytest.raises(ValueError, match=r"."):
            snapshots.parse(name, text)


NOTES = dict.fromkeys(annotations.EARLIER_STATE, "1") | {SERVICE: "evil"}


@pytest.mark.attack(36)
@pytest.mark.parametrize("key", NOTES)
def test_what_the_reconciler_notes_is_the_reconcilers_alone(key: str) -> None:
    assert key not in accepted(user_wrote({key: NOTES[key]}))["metadata"]["annotations"]
    stored = accepted(user_wrote())
    assert accepted(with_notes(stored, {key: NOTES[key]}), stored) == stored
    noted = with_notes(stored, {key: "noted"})
    for forged in (NOTES[key], None):
        assert accepted(with_notes(noted, {key: forged}), noted)["metadata"]["annotations"][key] == "noted"


@pytest.mark.attack(36)
def test_no_traffic_goes_to_a_revision_that_somebody_calls_promoted() -> None:
    stored = accepted(user_wrote())
    promoted = {f"{PREFIX}promoted": "evil", f"{PREFIX}previous": "evil"}
    by_notes = with_notes(stored, {annotations.CANARY: "10%", **promoted})
    by_status = with_state(with_notes(stored, {annotations.CANARY: "10%"}), promoted="evil", previous="evil")
    plain = user_wrote(promoted, replicas=0)
    del plain["metadata"]["annotations"][MODEL]
    for forged in (by_notes, by_status):
        for previous in (stored, plain, None):
            verdict = judge(forged, FACTS, previous)
            assert verdict.service is not None
            assert "evil" not in canonical(verdict.service)
            assert not verdict.deployment or not promoted.keys() & verdict.deployment["metadata"]["annotations"].keys()


@pytest.mark.attack(36)
@pytest.mark.parametrize("said", ["to-knative", "from-knative", "x"])
def test_a_forged_handover_starts_no_pods_beside_knatives(said: str) -> None:
    """The Deployment controller scales a paused Deployment, too."""
    stored = accepted(user_wrote(replicas=1))
    assert stored["spec"]["replicas"] == 0
    forged = with_notes(stored, {HANDOVER: said}) | {"spec": stored["spec"] | {"replicas": 50, "paused": True}}
    for previous in (stored, None):
        made = accepted(forged, previous)
        assert made["spec"]["replicas"] == 0
        assert HANDOVER not in made["metadata"]["annotations"]


@pytest.mark.attack(36)
def test_a_handover_that_was_written_before_there_was_a_model_does_not_count() -> None:
    plain = user_wrote({HANDOVER: "to-knative"}, 0)
    del plain["metadata"]["annotations"][MODEL]
    made = accepted(with_notes(plain, {MODEL: "s3://models/iris.joblib"}) | {"spec": {"replicas": 50}}, plain)
    assert (made["spec"]["replicas"], HANDOVER in made["metadata"]["annotations"]) == (0, False)


@pytest.mark.attack(36)
@pytest.mark.parametrize("said", ["50", "4294967295", "-1", "", "many"])
def test_replicas_that_somebody_notes_are_as_good_as_the_field_and_no_better(said: str) -> None:
    made = accepted(user_wrote({REPLICAS: said}, 0))
    assert made["spec"]["replicas"] == 0
    assert judge(made, FACTS).service == judge(accepted(user_wrote()), FACTS).service


def claimed(deployment: JsonObject, spared: str = "") -> JsonObject:
    """``deployment`` with a note that all of it was filled in."""
    everything = {path: overlay.digest(value) for path, value in overlay._values(deployment, "") if path != spared}
    return with_notes(deployment, {FILLED: overlay.encode(everything)})


OF_MODEL = overlay.path("metadata", "annotations", MODEL)


@pytest.mark.attack(36)
@pytest.mark.parametrize("changed", [{}, {"image": "example.com/evil:1"}, {"args": ["--allow-network", "0.0.0.0/0"]}])
def test_an_object_that_claims_to_be_all_filled_in_is_completed_as_if_it_were_empty(changed: JsonObject) -> None:
    (loader,) = accepted(user_wrote())["spec"]["template"]["spec"]["initContainers"]
    theirs = user_wrote({"team": "a"})
    theirs["metadata"] |= {"labels": {"team": "a"}, "uid": "1"}
    theirs["spec"] = {"template": {"spec": {"initContainers": [loader | changed], "containers": []}}}
    made = accepted(claimed(theirs, OF_MODEL))
    assert made["spec"] == accepted(user_wrote())["spec"]
    assert made["metadata"] | {"annotations": {}} == theirs["metadata"] | {
        "annotations": {},
        "labels": {"team": "a", SERVED_LABEL: "true"},
    }
    assert made["metadata"]["annotations"]["team"] == "a"
    assert [problem.code for problem in judge(claimed(theirs), FACTS).problems] == ["NothingToGiveBack"]


@pytest.mark.attack(36)
def test_what_the_server_notes_is_not_taken_off_by_claiming_that_it_was_filled_in() -> None:
    stored = with_notes(accepted(annotated(plain()), plain()), dict.fromkeys(NOTES, "noted"))
    assert stored["metadata"]["annotations"][HANDOVER] == "to-knative"
    assert accepted(claimed(stored, OF_MODEL), stored)["metadata"]["annotations"].keys() == (
        stored["metadata"]["annotations"].keys()
    )


@pytest.mark.attack(36)
@pytest.mark.parametrize("said", [2**60, -1, 0, True, "7", 1.5, [], None, 10**400])
def test_a_size_in_a_record_is_a_size_or_nothing(said: Any) -> None:
    stored = accepted(user_wrote())
    text = with_notes(stored, {COMPLETED_WITH: json.dumps({"asked": "", "loader": "", "size": said})})
    assert accepted(text, text) == stored


@pytest.mark.parametrize(
    "value", [completion_record.RENEW, None], ids=["by its word", "by a record of what is present"]
)
def test_a_request_for_the_present_loader_and_runtime_counts(value: str | None) -> None:
    then = ClusterContext(WIDE, (EARLIER,))
    stored = accepted(user_wrote(), context=then)
    present = accepted(user_wrote())
    asking = with_notes(stored, {COMPLETED_WITH: value or present["metadata"]["annotations"][COMPLETED_WITH]})
    assert accepted(asking, stored)["spec"] == present["spec"]
    assert accepted(with_notes(stored, {"team": "a"}), stored)["spec"] == stored["spec"]


def plain() -> JsonObject:
    template = {
        "metadata": {"labels": {"app": "iris"}},
        "spec": {"containers": [{"name": "own", "image": "own:1", "ports": [{"containerPort": 8080}]}]},
    }
    document = user_wrote(replicas=3)
    del document["metadata"]["annotations"][MODEL]
    return document | {"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "iris"}}, "template": template}}


def annotated(document: JsonObject, **notes: str) -> JsonObject:
    return with_notes(document, {MODEL: "s3://models/iris.joblib", **notes})


def _without_model(document: JsonObject) -> JsonObject:
    return with_notes(document, {MODEL: None})


THEN = ClusterContext(WIDE, (EARLIER, OTHER))
CHANGES: dict[str, Callable[[], tuple[JsonObject, JsonObject | None]]] = {
    "made": lambda: (user_wrote(replicas=3), None),
    "made of a copy": lambda: (accepted(user_wrote(replicas=3), context=THEN), None),
    "made with its own container": lambda: (annotated(plain()), None),
    "annotated while it runs": lambda: (annotated(plain()), plain()),
    "changed": lambda: (
        with_notes(accepted(user_wrote(replicas=3), context=THEN), {"team": "a"}),
        accepted(user_wrote(replicas=3), context=THEN),
    ),
    "asked otherwise": lambda: (
        with_notes(accepted(user_wrote(replicas=3), context=THEN), {PREFIX + "format": "sklearn:1"}),
        with_state(accepted(user_wrote(replicas=3), context=THEN), model_bytes=2**36),
    ),
    "another model": lambda: (
        with_notes(accepted(user_wrote(replicas=3), context=THEN), {MODEL: "s3://models/wine.joblib"}),
        with_state(accepted(user_wrote(replicas=3), context=THEN), model_bytes=2**36),
    ),
    "renewed": lambda: (
        with_notes(accepted(user_wrote(replicas=3), context=THEN), {COMPLETED_WITH: completion_record.RENEW}),
        with_state(accepted(user_wrote(replicas=3), context=THEN), model_bytes=2**36),
    ),
    "replaced": lambda: (user_wrote(replicas=2), accepted(user_wrote(replicas=3), context=THEN)),
    "given back": lambda: (
        _without_model(accepted(annotated(plain()), plain())),
        accepted(annotated(plain()), plain()),
    ),
    "mode deployment": lambda: (
        annotated(accepted(annotated(plain()), plain()), **{annotations.MODE: "deployment"}),
        accepted(annotated(plain()), plain()),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_second_call_after_another_webhook_changes_nothing(
    change: Callable[[], tuple[JsonObject, JsonObject | None]],
) -> None:
    """``reinvocationPolicy: IfNeeded``: what we have made comes again, with the same object before it."""
    written, previous = change()
    made = accepted(written, previous)
    assert accepted(made, previous) == made
    between = copy.deepcopy(made)
    between["spec"]["template"]["metadata"]["labels"]["cost-centre"] = "7"
    again = accepted(between, previous)
    del again["spec"]["template"]["metadata"]["labels"]["cost-centre"]
    assert again == made
    assert render_stored(made, FACTS).problems == ()


def stored_notes(deployment: JsonObject) -> Mapping[str, str]:
    """All that we note in annotations of a Deployment."""
    state = {each.key for each in STATE}
    return {key: text for key, text in deployment["metadata"]["annotations"].items() if key in state}


DEFAULTS = manifests.default_context()
OFFERED = [
    pytest.param(runtime, protocol, id=f"{runtime.name}-{protocol}")
    for runtime in DEFAULTS.runtimes
    for protocol in runtime.protocols
]


@pytest.mark.parametrize(("runtime", "protocol"), OFFERED)
def test_all_that_is_noted_takes_less_than_a_kilobyte(runtime: Runtime, protocol: str) -> None:
    written = user_wrote(
        {annotations.RUNTIME: runtime.name, annotations.PROTOCOL: protocol, annotations.SIZE: "140Gi",
           annotations.CREDENTIALS: "store", annotations.SIGNATURE_KEY: "team", annotations.MODEL: "s3://models/llama.gguf"}
    )  # fmt: skip
    written["metadata"] |= {"name": "llama-3-70b-instruct", "namespace": "language-models"}
    gpus = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    written["spec"] = {"template": {"spec": {"containers": [{"name": "model-server", **gpus}]}}}
    notes = stored_notes(accepted(written, context=DEFAULTS))
    assert sum(len(f"    {key}: '{text}'\n") for key, text in notes.items()) <= 1024
