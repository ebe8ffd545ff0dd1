"""`mlflow://server/model/version` and `mlflow://server/model@alias`: a registered model of an MLflow tracking server.

The server says where the files are: in a store, or at the server itself, which then reads them from its store.

Sources: https://mlflow.org/docs/latest/rest-api.html; github.com/mlflow/mlflow, `mlflow/protos/service.proto`,
`model_registry.proto` and `mlflow_artifacts.proto`
"""

import re
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import model_uri
from model_loader import sources
from model_loader.http.authorizers import ANONYMOUS, Authorizer, Header, basic
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, check_count, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import documents, pages
from model_loader.sources.documents import mapping
from model_uri import ModelURI, URIError, registered_models, uri_of_path

_SERVER = "MLFLOW_TRACKING_URI"
_PROXIED = "mlflow-artifacts"
_STORES = ("s3", "gs")
_MAX_FOLDERS = 10_000
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class _Server(NamedTuple):
    base: str
    authorizer: Authorizer
    context: Context

    def get(self, resource: str, **query: str) -> dict[str, object]:
        """Return the document of the API. Raises LoadError."""
        url = f"{self.base}/api/2.0/{resource}{'?' + urlencode(query, quote_via=quote) if query else ''}"
        try:
            return documents.from_json(self.context.transport.read(url, authorizer=self.authorizer))
        except ValueError:
            raise LoadError(
                Code.SERVER_ERROR,
                f"{self.base} did not answer as an MLflow tracking server",
                hint=f"If the server has a path, set {_SERVER} in the Secret to its whole URL.",
            ) from None


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the files of the version, the alias's present version or the logged model, or below a path in it.

    Raises LoadError.
    """
    server = _server(uri, context)
    try:
        place, resolved = _location(server, uri)
    except LoadError as failure:
        if failure.code is not Code.UNREACHABLE or context.store or context.secret.setting(_SERVER).text:
            raise
        hint = f"For a server without TLS, set {_SERVER} in the Secret: http://{uri.authority}."
        raise LoadError(failure.code, failure.message, hint=hint) from None
    inside = "/".join(uri.inside)
    scheme, separator, rest = place.partition(":")
    if not separator:
        raise _not_served(place)
    if scheme == _PROXIED:
        listing = _proxied(server, uri, _path_at(server, rest), inside)
    elif scheme in _STORES:
        bucket, _, path = rest.removeprefix("//").partition("/")
        listing = _of_store(scheme, bucket, "/".join(part for part in (path.strip("/"), inside) if part), context)
    else:
        raise _not_served(place)
    return listing._replace(resolved=resolved)


def _server(uri: ModelURI, context: Context) -> _Server:
    """Return the server at the URI's host, with the scheme and the path that the Secret adds. Raises LoadError."""
    said = context.secret.setting(_SERVER)
    base = context.endpoint_of(said, f"https://{uri.authority}")
    if said.text and context.store is None:
        named = model_uri.parse(base)
        if (named.host, named.port) != (uri.host, uri.port):
            raise LoadError(
                Code.REFUSED,
                f"{said} names {named.authority}, which is not the server in {uri}",
                hint=f"Write mlflow://{named.authority}/MODEL/VERSION, or correct {_SERVER}.",
            )
    secret = context.secret
    token, user = secret.get("MLFLOW_TRACKING_TOKEN"), secret.get("MLFLOW_TRACKING_USERNAME")
    authorizer: Authorizer = ANONYMOUS
    if token:
        authorizer = Header(f"Bearer {token}")
    elif user:
        authorizer = basic(f"{user}:{secret.get('MLFLOW_TRACKING_PASSWORD')}")
    return _Server(base, authorizer, context)


def _location(server: _Server, uri: ModelURI) -> tuple[str, str]:
    """Return where the files of the model are, and what the URI stands for. Raises LoadError."""
    name, *behind = uri.segments
    try:
        if registered_models.is_logged(uri.segments):
            found = mapping(mapping(server.get(f"mlflow/logged-models/{name}")["model"])["info"])
            run = _word(found.get("source_run_id"))
            return str(found["artifact_uri"]), f"logged model {name}{run and f' of run {run}'}"
        version, alias = behind[0], ""
        if version.startswith("@"):
            alias = version[1:]
            found = mapping(server.get("mlflow/registered-models/alias", name=name, alias=alias)["model_version"])
            version = _word(found["version"])
        else:
            found = mapping(server.get("mlflow/model-versions/get", name=name, version=version)["model_version"])
        at = server.get("mlflow/model-versions/get-download-uri", name=name, version=version)
        run = _word(found.get("run_id"))
        return str(at["artifact_uri"]), f"{name} version {version}{run and f' of run {run}'}"
    except LoadError as failure:
        # For an alias that does not exist, the server answers 400.
        if failure.status not in (400, 404):
            raise
        message = f"the tracking server has no {uri}"
        hint = "Check the name and the version, or the alias: names are case-sensitive."
        raise LoadError(Code.NOT_FOUND, message, hint=hint, status=failure.status) from None
    except (KeyError, TypeError):
        raise LoadError(Code.SERVER_ERROR, f"{server.base} did not answer with a model") from None


def _word(value: object) -> str:
    """Return an ID or a version, or an empty text if the server's is neither."""
    text = str(value or "")
    return text if _WORD.fullmatch(text) else ""


def _path_at(server: _Server, rest: str) -> str:
    """Return the path of `mlflow-artifacts:/path` or `mlflow-artifacts://host/path`. Raises LoadError(Refused)."""
    if not rest.startswith("//"):
        return rest.strip("/")
    authority, _, path = rest[2:].partition("/")
    if authority and authority != urlsplit(server.base).netloc:
        why = f"the files of the model are at another tracking server, {ascii(authority)[1:-1][:120]}"
        raise LoadError(Code.REFUSED, why, hint="Name that server in the URI.")
    return path.strip("/")


def _proxied(server: _Server, uri: ModelURI, path: str, inside: str) -> Listing:
    """Return the files that the server reads for its clients. Raises LoadError."""
    root = "/".join(part for part in (path, inside) if part)
    files: list[File] = []
    waiting, read = [""], 0
    while waiting:
        folder = waiting.pop()
        read += 1
        if read > _MAX_FOLDERS:
            raise LoadError(Code.REFUSED, f"the model has more than {_MAX_FOLDERS:,} folders")
        for name, size in _entries(server, f"{root}/{folder}".rstrip("/")):
            below = f"{folder}/{name}" if folder else name
            if size is None:
                waiting.append(safe_path(below))
            else:
                files.append(_file(server, root, below, size))
        check_count(len(files) + len(waiting))
    if files:
        return Listing(tuple(files))
    if inside and not uri.folder:
        parent, _, name = root.rpartition("/")
        sizes = dict(_entries(server, parent))
        if (size := sizes.get(name)) is not None:
            return Listing((_file(server, parent, name, size),), single=True)
    raise LoadError(Code.NOT_FOUND, f"{uri} holds no file")


def _entries(server: _Server, folder: str) -> list[tuple[str, int | None]]:
    """Return the names in a folder, each with the file's size or, for a folder, None. Raises LoadError."""
    found = server.get("mlflow-artifacts/artifacts", path=folder).get("files", [])
    try:
        if not isinstance(found, list):
            raise TypeError(found)
        return [
            (str(each["path"]), None if each.get("is_dir") else size_of(each.get("file_size", 0))) for each in found
        ]
    except (KeyError, TypeError, AttributeError):
        raise pages.unreadable(server.base, "files") from None


def _file(server: _Server, root: str, path: str, size: int) -> File:
    return File(
        path=safe_path(path),
        url=f"{server.base}/api/2.0/mlflow-artifacts/artifacts/{quote(f'{root}/{path}')}",
        size=size,
        authorizer=server.authorizer,
        # For each request, a server with a store behind it downloads the whole file to its own disk.
        ranged=False,
    )


def _of_store(scheme: str, bucket: str, path: str, context: Context) -> Listing:
    """Return the files at the place in a store. Raises LoadError: Refused if the arguments do not allow the place."""
    try:
        uri = sources.parse(uri_of_path(scheme, bucket, path))
        bound = context.bound_to(uri)
    except URIError:
        raise _not_served(f"{scheme}://{bucket}") from None
    except LoadError as failure:
        if failure.code is not Code.REFUSED:
            raise
        hint = "Let the server send the files itself (mlflow server --serve-artifacts), or name their place in the URI."
        raise LoadError(failure.code, f"the server's files are elsewhere: {failure.message}", hint=hint) from None
    return sources.list_files(uri, bound)


def _not_served(place: str) -> LoadError:
    shown = ascii(place.partition("?")[0].partition("#")[0])[1:-1]
    shown = shown.rpartition("@")[2][:120]
    return LoadError(
        Code.REFUSED,
        f"the files of the model are at {shown}, which the loader does not read",
        hint="Start the server with --serve-artifacts and an artifact root of mlflow-artifacts:/, "
        "and register the model again. For Databricks, use the model's volume or external location.",
    )
