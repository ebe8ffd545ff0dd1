"""The errors that end a command, each with a sentence and a hint for the user."""

from kubectl_serve import PROGRAM
from serve_core.base.constants import GROUP
from serve_kube.errors import (
    ApiError,
    DeniedError,
    ForbiddenError,
    NotConnectedError,
    TimedOutError,
    UnreadableError,
    UntrustedCertificateError,
    WebhookFailedError,
)


class ServeError(Exception):
    """Ends a command with exit code 1, a sentence and an optional hint."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint


class UsageError(ServeError):
    """The command line is wrong."""


class NotInstalledError(ServeError):
    """The cluster has no kubectl-serve."""


class ReportedError(ServeError):
    """A failure that the command has reported already; only the exit code is left."""

    def __init__(self) -> None:
        super().__init__("")


def for_user(error: ServeError | ApiError) -> ServeError:
    """An error of the Kubernetes API, with a hint for the user. A ServeError is returned unchanged."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, DeniedError):
        return ServeError(error.denial)
    if isinstance(error, WebhookFailedError):
        is_own = f'.{GROUP}"' in error.message  # the text is all there is
        return ServeError(
            f"an admission webhook of the cluster does not respond: {error.message}",
            f"It is kubectl-serve's own: `{PROGRAM} doctor` shows the cause."
            if is_own
            else "Check the pods of that webhook.",
        )
    if error.status == 401:
        hint = "Log in to the cluster again: the credentials in the kubeconfig are invalid or have expired."
    else:
        hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
    return ServeError(error.message, hint)


_HINTS: dict[type[ApiError], str] = {
    UntrustedCertificateError: "Check certificate-authority-data of the kubeconfig.",
    TimedOutError: "Check that the cluster is running, or increase --request-timeout.",
    NotConnectedError: "Check that the cluster is running and that the context is right.",
    UnreadableError: "Inspect it with kubectl; correct or delete it.",
    ForbiddenError: "Ask the cluster administrator for this permission, or use another context.",
}
