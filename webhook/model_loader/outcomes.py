"""How a load can end: one table of codes, with the exit code, whether trying again may help, and what to do.

Standard library only and free of imports from the rest of the loader, so that others can read the table.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Code(StrEnum):
    """The `code` of a termination message."""

    LOADED = "Loaded"
    INTERNAL = "Internal"
    INVALID_SOURCE = "InvalidSource"
    UNAUTHORIZED = "Unauthorized"
    NOT_FOUND = "NotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    CORRUPTED = "Corrupted"
    REFUSED = "Refused"
    NO_SPACE = "NoSpace"
    UNREACHABLE = "Unreachable"
    SERVER_ERROR = "ServerError"
    STALLED = "Stalled"
    CHANGED = "Changed"
    INTERRUPTED = "Interrupted"
    CANNOT_VERIFY = "CannotVerify"
    NOT_SIGNED = "NotSigned"
    NO_FILES_MATCH = "NoFilesMatch"


class Outcome(NamedTuple):
    """`retryable`: the same load may succeed later without any change. `transient`: an immediate retry may help."""

    exit_code: int
    retryable: bool
    hint: str
    transient: bool = False


OUTCOMES: Mapping[Code, Outcome] = {
    Code.LOADED: Outcome(0, False, ""),
    Code.INTERNAL: Outcome(1, False, "This is a defect of the loader: report it with the container's log."),
    Code.INVALID_SOURCE: Outcome(2, False, "Correct the model's URI or the loader's arguments."),
    Code.UNAUTHORIZED: Outcome(
        10,
        False,
        "Check the Secret that kubectl-serve.dev/credentials names, and the read permissions of its identity.",
    ),
    Code.NOT_FOUND: Outcome(11, False, "Check the URI: the name is case-sensitive and must exist in the store."),
    Code.DIGEST_MISMATCH: Outcome(
        12, False, "Serve the model that has this digest, or check the new model and change the digest."
    ),
    Code.CORRUPTED: Outcome(13, True, "The data differs from the store's checksum: upload the model again."),
    Code.REFUSED: Outcome(14, False, "Ask a cluster administrator to allow it, or use another source."),
    Code.NO_SPACE: Outcome(15, False, "Increase the size of the model volume (ephemeral-storage, or its size limit)."),
    Code.UNREACHABLE: Outcome(
        16, True, "Check the host name, the NetworkPolicies, and that the store is running.", transient=True
    ),
    Code.SERVER_ERROR: Outcome(
        17, True, "The store fails or throttles requests: check the state of the store.", transient=True
    ),
    Code.STALLED: Outcome(
        18, True, "The store stopped sending: check the network between the node and the store.", transient=True
    ),
    Code.CHANGED: Outcome(19, True, "The model changed during the download: upload each version to a new path."),
    Code.INTERRUPTED: Outcome(20, True, "The container was stopped; the next start resumes the download."),
    Code.CANNOT_VERIFY: Outcome(
        21, False, "Check the ConfigMap that kubectl-serve.dev/signature-key names: its key.pub must be the public key."
    ),
    Code.NOT_SIGNED: Outcome(
        22, False, "Restore the model that was signed with this key, or check the difference and sign the model again."
    ),
    Code.NO_FILES_MATCH: Outcome(
        23, False, "Correct the patterns in kubectl-serve.dev/files, or remove the annotation."
    ),
}


class LoadError(Exception):
    """A load, or a part of one, that ended with `code`. `message` never has credentials, user information or a query.

    `file`: the file of the model, if the failure is about one. `wait`: seconds that the server asked to wait. `status`:
    the HTTP status. `headers`: the response's headers in lower case, if there are any. `reason`: the server's own code.
    `answer`: the start of the response's body, which can repeat the request and is not for messages.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str = "",
        file: str = "",
        wait: float = 0.0,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
        answer: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.own_hint = hint
        """Of this failure alone; empty where its code's hint is all there is to say."""
        self.hint = hint or OUTCOMES[code].hint
        self.file = file
        self.wait = wait
        self.status = status
        self.headers: Mapping[str, str] = headers or {}
        self.reason = reason
        self.answer = answer

    @property
    def transient(self) -> bool:
        """Whether an immediate retry may succeed."""
        return OUTCOMES[self.code].transient
