"""Status objects of the API server become errors of one tree."""

import pytest

from serve_kube import errors


def test_a_denial_names_the_webhook_and_its_own_message() -> None:
    message = 'admission webhook "policies.example.com" denied the request: no\nand no'
    error = errors.of_status(403, {"message": message})
    assert isinstance(error, errors.DeniedError)
    assert (error.webhook, error.denial, error.message) == ("policies.example.com", "no\nand no", message)


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (500, {"message": 'Internal error occurred: failed calling webhook "a.b"'}, errors.WebhookFailedError),
        (500, {"message": 'admission webhook "a" denied the request: a defect'}, errors.UnavailableError),
        (409, {"message": "exists", "reason": "AlreadyExists"}, errors.AlreadyExistsError),
        (409, {"message": "changed", "reason": "Conflict"}, errors.ConflictError),
        (422, {"details": {"causes": [{"field": "metadata.uid"}]}}, errors.ConflictError),
        (422, {"details": {"causes": "odd"}}, errors.InvalidError),
        (418, {}, errors.UnavailableError),
    ],
)
def test_the_status_decides_the_class(status: int, document: dict[str, object], kind: type[errors.ApiError]) -> None:
    assert type(errors.of_status(status, document)) is kind


def test_without_a_message_the_status_is_named() -> None:
    assert errors.of_status(502, {}).message == "the API server answered with status 502"


def test_a_message_is_limited_and_more_so_in_logs() -> None:
    error = errors.of_status(500, {"message": "x" * 10**6})
    assert (len(error.message), len(str(error))) == (errors.MAX_MESSAGE, 2000)


def test_the_rejected_fields_are_known() -> None:
    causes = [{"field": "spec.selector", "reason": "FieldValueRequired"}, {"message": "no field"}]
    error = errors.of_status(422, {"message": "it is invalid", "details": {"causes": causes}})
    assert isinstance(error, errors.InvalidError)
    assert error.fields == ("spec.selector", "")
