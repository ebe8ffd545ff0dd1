"""The one error a user of `scripts/cluster` can meet."""


class ClusterError(Exception):
    """Something the user has to know: one sentence, and a hint where there is a way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
