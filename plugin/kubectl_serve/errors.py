"""What can go wrong, each as a sentence and a hint for the user. No client library's exception gets past these."""

import os


def connecting(error: OSError) -> str:
    """Why a connection was not made, as the operating system says it."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else sentence(error)


def sentence(error: BaseException) -> str:
    """What an error says, for the middle of a sentence."""
    return (str(error) or type(error).__name__).rstrip(".")


class ServeError(Exception):
    """Ends a command with exit code 1, its sentence and, where there is something to do, a hint."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint


class UsageError(ServeError):
    """The command line makes no sense."""


class ReportedError(ServeError):
    """A failure that the command has told in full already; only the exit code is left."""

    def __init__(self) -> None:
        super().__init__("")


class ApiError(ServeError):
    """The API server refused a request, or cannot be asked."""


class NotFoundError(ApiError):
    """404."""


class AlreadyExistsError(ApiError):
    """409 with reason AlreadyExists."""


class ConflictError(ApiError):
    """409: the object, or a field of it, is somebody else's."""


class GoneError(ApiError):
    """410: the version asked for is too old to watch from."""


class ForbiddenError(ApiError):
    """401 or 403."""


class InvalidError(ApiError):
    """400 or 422, or refused by an admission webhook."""


class RefusedError(InvalidError):
    """Refused by an admission webhook; the sentence has one problem a line."""

    def __init__(self, sentence: str, hint: str = "", webhook: str = "") -> None:
        super().__init__(sentence, hint)
        self.webhook = webhook
        """Its name."""


class UnreadableError(ApiError):
    """An object is nested too deeply, or too large."""


class UnreachableError(ApiError):
    """The API server does not answer."""
