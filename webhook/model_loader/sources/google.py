"""`gs://bucket/prefix` of Google Cloud Storage."""

from urllib.parse import quote, urlencode

from model_loader.http.authorizers import Authorizer, Header, Token
from model_loader.http.network import Network
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import documents, pages
from model_loader.verify import checksums
from model_uri import ModelURI

_STORE = "https://storage.googleapis.com"
_KEY_FILES = ("gcloud-application-credentials.json", "key.json")
"""The names of a service account's key file in a Secret, by KServe and by Google's documentation."""
_METADATA = "metadata.google.internal"
_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_SERVERS = ("169.254.169.254/32", "127.0.0.0/8", "::1/128")
"""The address of the metadata server, and of replacements on the node."""


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the objects below the prefix, or the one object with exactly that name. Raises LoadError."""
    bucket, path = uri.host, uri.path
    store = context.endpoint(_STORE, "GS_ENDPOINT_URL")
    base = f"{store}/storage/v1/b/{quote(bucket, safe='')}/o"
    authorizer = _authorizer(context)
    prefix = path.rstrip("/")
    files = _objects(base, f"{prefix}/" if prefix else "", context, authorizer)
    if files:
        return Listing(tuple(files))
    if prefix and not path.endswith("/"):
        try:
            entry = _document(context, f"{base}/{quote(prefix, safe='')}", authorizer)
            return Listing((_file(base, entry, prefix.rpartition("/")[0], authorizer),), single=True)
        except LoadError as failure:
            if failure.code is not Code.NOT_FOUND:
                raise
    raise LoadError(Code.NOT_FOUND, f"{uri} holds no object")


def _objects(base: str, prefix: str, context: Context, authorizer: Authorizer) -> list[File]:
    def page(token: str) -> tuple[list[File], str]:
        query = {"prefix": prefix, "fields": "nextPageToken,items(name,size,generation,md5Hash,crc32c,contentEncoding)"}
        query |= {"pageToken": token} if token else {}
        found = _document(context, f"{base}?{urlencode(query, quote_via=quote)}", authorizer)
        entries = found.get("items", [])
        if not isinstance(entries, list):
            raise pages.unreadable(base, "objects")
        try:
            names = [(str(entry["name"]), entry) for entry in entries]
        except (KeyError, TypeError):
            raise pages.unreadable(base, "objects") from None
        if not all(name.startswith(prefix) for name, _ in names):
            raise LoadError(Code.SERVER_ERROR, f"{base} listed an object that is not below the prefix")
        files = [_file(base, entry, prefix.rstrip("/"), authorizer) for name, entry in names if not name.endswith("/")]
        return files, str(found.get("nextPageToken") or "")

    return pages.read_all(page)


def _file(base: str, entry: dict[str, object], folder: str, authorizer: Authorizer) -> File:
    try:
        name, generation = str(entry["name"]), str(entry["generation"])
        return File(
            path=safe_path(name.removeprefix(f"{folder}/") if folder else name),
            # With the generation: an overwritten object is not found, and never mixed.
            url=f"{base}/{quote(name, safe='')}?alt=media&generation={generation}",
            size=size_of(entry["size"]),
            authorizer=authorizer,
            version=generation,
            # Composite objects have no MD5.
            checksum=checksums.from_base64("md5", str(entry.get("md5Hash") or ""))
            or checksums.from_base64("crc32c", str(entry.get("crc32c") or "")),
        )
    except (KeyError, ValueError):
        raise pages.unreadable(base, "objects") from None


def _document(context: Context, url: str, authorizer: Authorizer) -> dict[str, object]:
    try:
        return documents.from_json(context.transport.read(url, authorizer=authorizer))
    except ValueError:
        raise LoadError(Code.SERVER_ERROR, "the store did not answer with JSON") from None


def _authorizer(context: Context) -> Authorizer:
    """Return the Secret's token or account, else the pod's identity, used when the store requests it."""
    token = context.secret.get("token")
    if token:
        return Header(f"Bearer {token}")
    key = context.secret.document(*_KEY_FILES)
    if key:
        from model_loader.sources import google_account  # noqa: PLC0415  # needs a library

        return Token(google_account.tokens(key, context))
    metadata = Transport(Network.of(_SERVERS))
    # As in Google's libraries.
    host = context.secret.environment.get("GCE_METADATA_HOST") or _METADATA

    def fetch() -> tuple[str, float]:
        try:
            found = documents.from_json(metadata.read(f"http://{host}{_PATH}", {"Metadata-Flavor": "Google"}))
        finally:
            metadata.close()
        return str(found["access_token"]), float(found["expires_in"])

    return Token(fetch)
