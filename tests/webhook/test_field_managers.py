"""What others have added to an object of ours becomes ours, so that the next apply takes it off."""

from typing import Any

from serve_core.names import FIELD_MANAGER
from serve_webhook import failure_policy
from serve_webhook.field_managers import seizure

OURS: Any = {
    "manager": FIELD_MANAGER,
    "operation": "Apply",
    "apiVersion": "serving.knative.dev/v1",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:metadata": {"f:labels": {}}, "f:spec": {"f:template": {"f:metadata": {}}}},
}
STATUS: Any = {"manager": "controller", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}}
LABELLED: Any = {"manager": "kubectl-label", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {}}}}
EDITED: Any = {
    "manager": "kn",
    "operation": "Update",
    "fieldsV1": {
        "f:metadata": {"f:annotations": {}},
        "f:spec": {"f:template": {"f:spec": {"f:timeoutSeconds": {}}}, "f:traffic": {}},
    },
}


def stored(*entries: Any) -> Any:
    metadata = {"name": "iris", "uid": "s-1", "resourceVersion": "7", "managedFields": list(entries)}
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": metadata}


def test_a_spec_that_only_we_have_written_is_ours_already() -> None:
    assert seizure(stored(OURS, STATUS, LABELLED)) is None
    assert seizure({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}}) is None


def test_what_others_wrote_into_the_spec_becomes_ours_and_the_rest_stays_theirs() -> None:
    spec: Any = {"f:template": {"f:metadata": {}, "f:spec": {"f:timeoutSeconds": {}}}, "f:traffic": {}}
    assert seizure(stored(OURS, EDITED, STATUS)) == {
        "metadata": {
            "uid": "s-1",
            "resourceVersion": "7",
            "managedFields": [
                STATUS,
                EDITED | {"fieldsV1": {"f:metadata": {"f:annotations": {}}}},
                OURS | {"fieldsV1": {"f:metadata": {"f:labels": {}}, "f:spec": spec}},
            ],
        }
    }


def test_where_nothing_is_ours_any_more_all_of_the_spec_becomes_so() -> None:
    entry = EDITED | {"fieldsV1": {"f:spec": {"f:traffic": {}}}}
    patch = seizure(stored(entry))
    assert patch is not None
    assert patch["metadata"]["managedFields"] == [OURS | {"fieldsV1": {"f:spec": {"f:traffic": {}}}}]


def test_flux_does_not_take_the_server_for_somebody_at_a_keyboard() -> None:
    """It takes over and takes off whatever a manager has that begins with ``kubectl``."""
    for manager in (FIELD_MANAGER, failure_policy.MANAGER):
        assert not manager.startswith("kubectl")
