"""kubectl's strategic merge patches, from three versions of an object."""

import json
from typing import Any

import pytest

from kubectl_serve.diff.threeway import LAST_APPLIED, patch
from serve_core.base.json import JsonObject


def deployment(annotations: dict[str, str] | None = None, **spec: Any) -> JsonObject:
    metadata: JsonObject = {"name": "iris"} | ({} if annotations is None else {"annotations": annotations})
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def applied(before: JsonObject, **filled_in: Any) -> JsonObject:
    """The Deployment as it is stored after kubectl applied ``before``, with what others filled in."""
    notes = {**(before["metadata"].get("annotations") or {}), "ours": "filled", LAST_APPLIED: json.dumps(before)}
    return {**before, "metadata": {"name": "iris", "annotations": notes}, "spec": before["spec"] | filled_in}


def pod(**spec: Any) -> JsonObject:
    return {"spec": spec}


def test_all_that_is_said_is_sent_and_nothing_of_others() -> None:
    wanted = deployment({"a": "1"}, replicas=2)
    assert patch(wanted, applied(wanted, paused=True)) == wanted


def test_what_was_applied_and_is_not_said_any_more_goes() -> None:
    sent = patch(deployment({"a": "1"}), applied(deployment({"a": "1", "b": "2"}, replicas=2)))
    assert sent["metadata"]["annotations"] == {"a": "1", "b": None}
    assert sent["spec"] == {"replicas": None}


def test_the_annotations_of_others_stay_where_a_file_has_none() -> None:
    assert patch(deployment(), applied(deployment({"a": "1"})))["metadata"]["annotations"] == {"a": None}


@pytest.mark.parametrize("note", ["", "[]", "{", "null"])
def test_without_a_note_of_kubectls_nothing_goes(note: str) -> None:
    live = deployment({"b": "2", LAST_APPLIED: note}, replicas=2)
    assert patch(deployment({"a": "1"}), live) == deployment({"a": "1"})


def test_elements_go_by_their_key_and_stand_in_the_files_order() -> None:
    a, b, c = ({"name": name, "image": name} for name in "abc")
    sent = patch(deployment(template=pod(containers=[c, a])), applied(deployment(template=pod(containers=[a, b]))))
    assert sent["spec"]["template"]["spec"] == {
        "containers": [c, a, {"$patch": "delete", "name": "b"}],
        "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
    }


def test_inside_an_element_what_is_not_said_any_more_goes() -> None:
    before = {"name": "a", "command": ["x"], "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}
    wanted = {"name": "a", "env": [{"name": "X", "value": "3"}]}
    live = applied(deployment(template=pod(containers=[before])))
    (sent, *_) = patch(deployment(template=pod(containers=[wanted])), live)["spec"]["template"]["spec"]["containers"]
    assert sent == {
        "name": "a",
        "command": None,
        "env": [{"name": "X", "value": "3"}, {"$patch": "delete", "name": "Y"}],
        "$setElementOrder/env": [{"name": "X"}],
    }


def test_a_list_without_keys_is_replaced() -> None:
    sent = patch(
        deployment(template=pod(tolerations=[{"key": "b"}])),
        applied(deployment(template=pod(tolerations=[{"key": "a"}]))),
    )
    assert sent["spec"]["template"]["spec"] == {"tolerations": [{"key": "b"}]}


def test_another_strategy_takes_the_settings_of_the_one_before_it_along() -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}
    sent = patch(deployment(strategy={"type": "Recreate"}), applied(deployment(), strategy=rolling))
    assert sent["spec"]["strategy"] == {"type": "Recreate", "$retainKeys": ["type"]}


def test_a_volume_of_another_kind_replaces_the_one_before_it() -> None:
    empty, claim = {"name": "v", "emptyDir": {}}, {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
    sent = patch(deployment(template=pod(volumes=[claim])), deployment({}, template=pod(volumes=[empty])))
    assert sent["spec"]["template"]["spec"]["volumes"] == [claim | {"$retainKeys": ["name", "persistentVolumeClaim"]}]


def test_the_settings_that_the_api_server_filled_in_stay_where_nothing_changes() -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}
    sent = patch(deployment(strategy={"type": "RollingUpdate"}), applied(deployment(), strategy=rolling))
    assert sent["spec"]["strategy"] == {"type": "RollingUpdate"}


def test_what_is_no_kubernetes_object_is_left_to_the_api_server() -> None:
    for containers in ([1, {"image": "x"}], [{"image": "x"}], [{"name": "a"}, {"image": "x"}]):
        odd = deployment(template=pod(containers=containers, volumes="none"))
        assert patch(odd, applied(deployment()))["spec"] == odd["spec"]


def test_ports_go_by_their_number() -> None:
    def with_port(number: int) -> JsonObject:
        return deployment(template=pod(containers=[{"name": "a", "ports": [{"containerPort": number}]}]))

    sent = patch(with_port(2), applied(with_port(1)))["spec"]["template"]["spec"]["containers"]
    assert sent[0] == {
        "name": "a",
        "ports": [{"containerPort": 2}, {"$patch": "delete", "containerPort": 1}],
        "$setElementOrder/ports": [{"containerPort": 2}],
    }
