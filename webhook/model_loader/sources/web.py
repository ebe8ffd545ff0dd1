"""`https://host/path/file` and, if the operator allows the address, `http://`."""

from collections.abc import Mapping

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Header, basic
from model_loader.http.transport import redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing
from model_loader.plan.paths import safe_path
from model_uri import ModelURI
from model_uri.naming import in_store_scheme

_PAGES = ("text/html", "application/xhtml+xml")
"""Media types of web pages."""
_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")
_PAGE_STARTS = ("<", " ", "\t", "\r", "\n", "\ufeff")
"""First characters of a page. No format of weights begins with one of these."""


def _authorizer(context: Context) -> Authorizer:
    """Return the Secret's `authorization`, else its `username` and `password`, else none."""
    value = context.secret.get("authorization")
    user, password = context.secret.get("username"), context.secret.get("password")
    if not value:
        return basic(f"{user}:{password}") if user or password else ANONYMOUS
    if not value.isprintable() or not value.isascii():
        raise LoadError(Code.INVALID_SOURCE, "the Secret's authorization is not one line of ASCII text")
    return Header(value)


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the one file of `uri`. Raises LoadError."""
    try:
        return Listing((_file(uri, context),), single=True)
    except LoadError as failure:
        meant = in_store_scheme(uri) if failure.code in (Code.NOT_FOUND, Code.UNAUTHORIZED) else ""
        if not meant:
            raise
        hint = f"For a folder, or with credentials of the store, write {meant}."
        raise LoadError(failure.code, failure.message, hint=hint, status=failure.status) from None


def _file(uri: ModelURI, context: Context) -> File:
    name, url = safe_path(uri.segments[-1]), uri.url
    authorizer = _authorizer(context)
    # Request the first byte: the response has the size, the version and the support of ranges. Many servers refuse
    # HEAD.
    try:
        response = context.transport.get(url, {"Range": "bytes=0-0"}, authorizer)
    except LoadError as failure:
        if failure.status != 416:
            raise
        response = context.transport.get(url, {}, authorizer)  # an empty file has no first byte
    if _is_page(name, response.headers) and context.transport.drain(response.body).startswith(_PAGE_STARTS):
        hint = (
            "For a page about the file, write the address of its download: at GitHub and GitLab, with /raw/ instead of "
            "/blob/. For a login page, set kubectl-serve.dev/credentials."
        )
        raise LoadError(Code.INVALID_SOURCE, f"{redact(response.url)!r} is a web page, not a model's file", hint=hint)
    etag = response.headers.get("etag", "")
    ranged = response.status == 206
    headers = response.headers
    size = headers.get("content-range", "").rpartition("/")[2] if ranged else headers.get("content-length")
    if ranged:
        context.transport.drain(response.body)
    known = int(size) if size and size.isdigit() else -1
    return File(
        path=name,
        url=url,
        size=known,
        authorizer=authorizer,
        etag="" if etag.startswith("W/") else etag,
        version=etag or response.headers.get("last-modified", ""),
        ranged=ranged and known >= 0,
    )


def _is_page(name: str, headers: Mapping[str, str]) -> bool:
    """Whether the server says that it sends a web page, and the URI names none."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in _PAGES and not name.lower().endswith(_PAGE_SUFFIXES)
