"""The errors of requests to the Kubernetes API. No exception of an HTTP or client library gets past these."""

import os

from serve_core.base.json import JsonObject, value_at

MAX_MESSAGE = 2**16
"""Characters of a message. A denial can have a hundred problems, one per line."""
_MAX_LOGGED = 2000
"""Characters of an error in a log."""


class ApiError(Exception):
    """A request failed. ``message`` is the API server's own sentence, if it answered.

    ``status`` is the HTTP status of the answer, or 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message[:_MAX_LOGGED])
        self.message = message[:MAX_MESSAGE]
        self.status = status


class UnavailableError(ApiError):
    """The API server did not answer, or answered "not now" (5xx, 429): the request is worth trying again."""


class UnreachableError(UnavailableError):
    """No answer came, it broke off, or it is not the answer of an API server."""


class NotConnectedError(UnreachableError):
    """No connection could be made."""


class TimedOutError(UnreachableError):
    """No answer came in time."""


class UntrustedCertificateError(UnreachableError):
    """The API server's certificate is not signed by a trusted authority, or is for another host."""


class WebhookFailedError(UnavailableError):
    """The API server could not call an admission webhook that must not be skipped."""


class NotFoundError(ApiError):
    """404: the object, or the whole resource, does not exist."""


class ConflictError(ApiError):
    """409: another version, another field manager or another UID."""


class AlreadyExistsError(ConflictError):
    """409 with reason AlreadyExists: an object of this name exists."""


class GoneError(ApiError):
    """410: the resource version is too old to watch from. List again."""


class ForbiddenError(ApiError):
    """401 or 403: the credentials are not valid, or RBAC does not allow it."""


class InvalidError(ApiError):
    """400 or 422, or denied by an admission webhook: trying again does not help.

    ``fields``: paths of the fields that the API server rejects, such as ``spec.selector``.
    """

    def __init__(self, message: str, status: int = 0, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message, status)
        self.fields = fields


class DeniedError(InvalidError):
    """Denied by the admission webhook named ``webhook``. ``denial`` is the webhook's own message."""

    def __init__(self, denial: str, status: int = 0, webhook: str = "") -> None:
        super().__init__(f'admission webhook "{webhook}" denied the request: {denial}', status)
        self.denial = denial
        self.webhook = webhook


class UnreadableError(ApiError):
    """The answer is an object that cannot be read: nested too deeply, or too large."""


_CLASSES: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
}


def of_status(status: int, document: JsonObject) -> ApiError:
    """The error for an answer of the API server. ``document``: its Status object, as far as it has one."""
    message = str(document.get("message") or f"the API server answered with status {status}").strip()
    # The API server has no field for these two, only its text.
    # Source: k8s.io/apiserver/pkg/admission/plugin/webhook/errors/statuserror.go and generic/webhook.go.
    head, is_denied, denial = message.partition(" denied the request: ")
    if is_denied and status < 500:
        return DeniedError(denial, status, webhook=head.rpartition("admission webhook ")[2].strip('"'))
    if "failed calling webhook" in message:
        return WebhookFailedError(message, status)
    if document.get("reason") == "AlreadyExists":
        return AlreadyExistsError(message, status)
    causes = value_at(document, "details", "causes")
    fields = tuple(str(value_at(cause, "field") or "") for cause in (causes if isinstance(causes, list) else ()))
    if status == 422 and "metadata.uid" in fields:
        status = 409  # a PATCH of another object of this name; DELETE and PUT call it a conflict
    error = _CLASSES.get(status, UnavailableError)
    return InvalidError(message, status, fields) if error is InvalidError else error(message, status)


def connection_reason(error: OSError) -> str:
    """Why no connection could be made, in the operating system's words."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else reason(error)


def reason(error: BaseException) -> str:
    """The text of an error, for the middle of a sentence."""
    return (str(error) or type(error).__name__).rstrip(".")
