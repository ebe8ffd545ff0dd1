"""The error that `scripts/cluster` reports to its user."""


class ClusterError(Exception):
    """An error for the user: one sentence, and a hint if the user can do something."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
