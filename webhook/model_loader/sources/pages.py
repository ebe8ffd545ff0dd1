"""Paginated lists of stores."""

from collections.abc import Callable, Sequence

from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import File, check_count

_MAX_PAGES = 10_000
"""Maximum number of pages. Pages can be empty after deletions, but every list ends."""


def read_all(page: Callable[[str], tuple[Sequence[File], str]]) -> list[File]:
    """Return the files of all pages. `page` takes a token, empty at first, and returns files and the next token.

    Raises LoadError: Refused for too many files, ServerError for a list that does not end.
    """
    files: list[File] = []
    token = ""
    for _ in range(_MAX_PAGES):
        found, following = page(token)
        files += found
        check_count(len(files))
        if not following:
            return files
        if following == token:
            break
        token = following
    raise LoadError(Code.SERVER_ERROR, "the store's list of files does not end")


def unreadable(store: str, of: str) -> LoadError:
    """Return the failure for an answer that is not the list of a store: often that of its console, or of a proxy."""
    hint = "Check the endpoint: it must be the store's API, and not its console, a login page or a proxy."
    return LoadError(Code.SERVER_ERROR, f"{store} did not answer with a list of {of}", hint=hint)
