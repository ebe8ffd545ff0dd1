"""`az://container/prefix` of the Azure storage account that the Secret or the environment names."""

import base64
import hmac
import re
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Token
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, Secret, Setting, one_line, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import documents, pages
from model_loader.verify import checksums
from model_uri import ModelURI

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_VERSION = "2023-11-03"
_SCOPE = "https://storage.azure.com/.default"
_LOGIN = "https://login.microsoftonline.com"
_CLOUDS = {
    _LOGIN: "core.windows.net",
    "https://login.microsoftonline.us": "core.usgovcloudapi.net",
    "https://login.chinacloudapi.cn": "core.chinacloudapi.cn",
}
"""The domain of the stores by the authority that issues tokens for them."""
_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_CLIENT = {
    "AZURE_CLIENT_ID": ("AZURE_CLIENT_ID", "AZ_CLIENT_ID"),
    "AZURE_TENANT_ID": ("AZURE_TENANT_ID", "AZ_TENANT_ID"),
    "AZURE_CLIENT_SECRET": ("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"),
}
"""The keys of a client (service principal), each with KServe's older name."""
_CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


class Account(NamedTuple):
    """A storage account. `endpoint`: the setting that names its URL. Without `key` and `token`, a client reads it."""

    name: str
    endpoint: Setting
    public: str
    key: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Account({self.name!r})"  # never show the secret parts


class SharedKey:
    """Authorizes with the account's key.

    Source: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    """

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        try:
            self._key = base64.b64decode(key, validate=True)
        except ValueError:
            raise LoadError(Code.INVALID_SOURCE, "AZURE_STORAGE_KEY is not base64") from None

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        """Add the date and the signature."""
        headers["Date"] = formatdate(usegmt=True)
        headers["x-ms-version"] = _VERSION
        known = {name.lower(): value for name, value in headers.items()}
        own = "".join(f"{name}:{known[name]}\n" for name in sorted(known) if name.startswith("x-ms-"))
        query = sorted((name.lower(), value) for name, value in parse_qsl(url.query, keep_blank_values=True))
        resource = f"/{self._account}{url.path}" + "".join(f"\n{name}:{value}" for name, value in query)
        # Encoding, language, length, MD5 and type of the missing body; Date; If-Modified-Since; If-Match;
        # If-None-Match; If-Unmodified-Since; Range.
        fields = ["", "", "", "", "", known["date"], "", known.get("if-match", ""), "", "", known.get("range", "")]
        text = "\n".join([method, *fields, own + resource])
        signature = base64.b64encode(hmac.digest(self._key, text.encode(), "sha256")).decode()
        headers["Authorization"] = f"SharedKey {self._account}:{signature}"

    def refresh(self) -> bool:
        """Return False: the Secret does not change while the loader runs."""
        return False


class _Versioned:
    """Adds the version of the protocol, which bearer tokens require, to another authorizer."""

    def __init__(self, inner: Authorizer) -> None:
        self._inner = inner

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        headers["x-ms-version"] = _VERSION
        self._inner.sign(method, url, headers)

    def refresh(self) -> bool:
        return self._inner.refresh()


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the blobs below the prefix, or the one blob with exactly that name. Raises LoadError."""
    container, path = uri.host, uri.path
    account = _account(context)
    base = f"{context.endpoint_of(account.endpoint, account.public)}/{quote(container, safe='$')}"
    token, authorizer = account.token, _authorizer(account, context)
    prefix = path.rstrip("/")
    found = _blobs(base, prefix, token, context, authorizer)
    below = [file for file in found if not prefix or file.path.startswith(f"{prefix}/")]
    if below:
        start = len(prefix) + 1 if prefix else 0
        return Listing(tuple(_named(file, file.path[start:]) for file in below))
    exact = [file for file in found if file.path == path]
    if exact:
        return Listing((_named(exact[0], path.rpartition("/")[2]),), single=True)
    raise LoadError(Code.NOT_FOUND, f"{uri} holds no blob")


def _named(file: File, path: str) -> File:
    return file._replace(path=safe_path(path))


def _blobs(base: str, prefix: str, token: str, context: Context, authorizer: Authorizer) -> list[File]:
    def page(marker: str) -> tuple[list[File], str]:
        query = {"restype": "container", "comp": "list", "prefix": prefix} | ({"marker": marker} if marker else {})
        url = f"{base}?{urlencode(query, quote_via=quote)}{f'&{token}' if token else ''}"
        try:
            found = documents.from_xml(context.transport.read(url, authorizer=authorizer))
        except ValueError:
            raise pages.unreadable(base, "blobs") from None
        files: list[File] = []
        for entry in found.iterfind("Blobs/Blob"):
            name = _name_of(entry.find("Name"))
            size = size_of(entry.findtext("Properties/Content-Length") or 0)
            if name.endswith("/") or entry.findtext("Properties/ResourceType") == "directory":
                continue
            etag = (entry.findtext("Properties/Etag") or "").strip('"')
            files.append(
                File(
                    path=name,
                    url=f"{base}/{quote(name)}{f'?{token}' if token else ''}",
                    size=size,
                    authorizer=authorizer,
                    etag=f'"{etag}"' if etag else "",
                    version=entry.findtext("Properties/Last-Modified") or "",
                    checksum=checksums.from_base64("md5", entry.findtext("Properties/Content-MD5") or ""),
                )
            )
        return files, found.findtext("NextMarker") or ""

    return pages.read_all(page)


def _name_of(element: "Element | None") -> str:
    """Return a blob's name. It is percent-encoded if XML cannot contain its characters."""
    name = "" if element is None else element.text or ""
    return unquote(name) if element is not None and element.get("Encoded") == "true" else name


def _account(context: Context) -> Account:
    """Return the account that the Secret or the environment names. Raises LoadError(InvalidSource)."""
    secret = context.secret
    connection = _connection(secret)
    name = secret.get("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_ACCOUNT_NAME")
    name = name or connection.get("accountname", "")
    if not name and context.store:
        name = (urlsplit(context.store.endpoint).hostname or "").partition(".")[0]
    if not name:
        raise LoadError(
            Code.INVALID_SOURCE, "the storage account is not named", hint="Add AZURE_STORAGE_ACCOUNT to the Secret."
        )
    if not _ACCOUNT.fullmatch(name):
        why, hint = (
            "AZURE_STORAGE_ACCOUNT is not the name of a storage account",
            "Write only the name, without a domain.",
        )
        raise LoadError(Code.INVALID_SOURCE, why, hint=hint)
    endpoint = secret.setting("AZURE_STORAGE_ENDPOINT")
    if not endpoint.text and connection:
        protocol, suffix = connection.get("defaultendpointsprotocol", "https"), connection.get("endpointsuffix")
        url = connection.get("blobendpoint") or (f"{protocol}://{name}.blob.{suffix}" if suffix else "")
        endpoint = secret.setting(_CONNECTION)._replace(text=url)
    return Account(
        name,
        endpoint,
        f"https://{name}.blob.{_CLOUDS.get(_login(secret), _CLOUDS[_LOGIN])}",
        secret.get("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY") or connection.get("accountkey", ""),
        (secret.get("AZURE_STORAGE_SAS_TOKEN") or connection.get("sharedaccesssignature", "")).lstrip("?"),
    )


def _connection(secret: Secret) -> dict[str, str]:
    """Return the parts of the connection string, with names in lower case; empty without one.

    Source: https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
    """
    parts = [part.partition("=") for part in secret.get(_CONNECTION).split(";") if part.strip()]
    if not all(name.strip() and mark for name, mark, _ in parts):
        why = f"{_CONNECTION} is not a connection string"
        raise LoadError(Code.INVALID_SOURCE, why, hint="Copy it from the account's access keys.")
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def _login(secret: Secret) -> str:
    """Return the URL of the authority that issues tokens."""
    said = secret.setting("AZURE_AUTHORITY_HOST")
    if said.text and "://" not in said.text:
        said = said._replace(text=f"https://{said.text}")  # as Azure's libraries
    return said.url() if said.text else _LOGIN


def _authorizer(account: Account, context: Context) -> Authorizer:
    """Return the account's key, or a client's token, or none: a SAS token is part of the query."""
    if account.key:
        return SharedKey(account.name, account.key)
    if account.token or not (fetch := _tokens(context)):
        return _Versioned(ANONYMOUS)
    return _Versioned(Token(fetch, required=True))


def _tokens(context: Context) -> Callable[[], tuple[str, float]] | None:
    """Return a function that fetches a token and its lifetime in seconds, for a client that proves its identity with
    its secret, or with the pod's token; None without a client. Raises LoadError(InvalidSource) for an incomplete one.

    Source: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
    """
    secret = context.secret
    client = {name: secret.get(*keys) for name, keys in _CLIENT.items()}
    assertion = "" if client["AZURE_CLIENT_SECRET"] else secret.get("AZURE_FEDERATED_TOKEN_FILE")
    missing = [name for name, value in client.items() if not value]
    if assertion and missing == ["AZURE_CLIENT_SECRET"]:
        missing = []
    elif len(missing) == len(client) or (missing and assertion):
        return None
    if missing:
        why = f"the credentials lack {' and '.join(missing)}"
        raise LoadError(Code.INVALID_SOURCE, why, hint="Add the key to the Secret.")
    login = _login(secret)
    if context.store and login not in _CLOUDS:
        context.refuse("AZURE_AUTHORITY_HOST", login, context.store)

    def fetch() -> tuple[str, float]:
        proof = {"client_secret": client["AZURE_CLIENT_SECRET"]}
        if assertion:
            kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            text = one_line(Path(assertion).read_text(), "AZURE_FEDERATED_TOKEN_FILE")
            proof = {"client_assertion_type": kind, "client_assertion": text}
        form = {"grant_type": "client_credentials", "client_id": client["AZURE_CLIENT_ID"], "scope": _SCOPE, **proof}
        url = f"{login}/{quote(client['AZURE_TENANT_ID'], safe='')}/oauth2/v2.0/token"
        found = documents.from_json(context.transport.read(url, form=urlencode(form)))
        return str(found["access_token"]), float(found["expires_in"])

    return fetch
