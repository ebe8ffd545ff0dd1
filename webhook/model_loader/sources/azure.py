"""`az://container/prefix` of the Azure storage account that the Secret or the environment names."""

import base64
import hmac
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Token
from model_loader.http.transport import redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import documents, pages
from model_loader.verify import checksums
from model_uri import ModelURI

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_VERSION = "2023-11-03"
_LOGIN = "https://login.microsoftonline.com"
_LOGINS = frozenset({_LOGIN, "https://login.microsoftonline.us", "https://login.chinacloudapi.cn"})


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
    secret = context.secret
    account = secret.get("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
    if not account and context.store:
        account = (urlsplit(context.store.endpoint).hostname or "").partition(".")[0]
    if not account:
        raise LoadError(
            Code.INVALID_SOURCE, "the storage account is not named", hint="Add AZURE_STORAGE_ACCOUNT to the Secret."
        )
    endpoint = context.endpoint(f"https://{account}.blob.core.windows.net", "AZURE_STORAGE_ENDPOINT")
    base = f"{endpoint}/{quote(container, safe='$')}"
    token = secret.get("AZURE_STORAGE_SAS_TOKEN").lstrip("?")
    authorizer = _authorizer(account, context)
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
            raise LoadError(Code.SERVER_ERROR, f"{base} did not answer with a list of blobs") from None
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


def _authorizer(account: str, context: Context) -> Authorizer:
    """Return the account's key, or the pod's workload identity, or none: a SAS token is part of the query."""
    secret = context.secret
    key = secret.get("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY")
    if key:
        return SharedKey(account, key)
    tenant, client = secret.get("AZURE_TENANT_ID"), secret.get("AZURE_CLIENT_ID")
    assertion = secret.get("AZURE_FEDERATED_TOKEN_FILE")
    if not (tenant and client and assertion) or secret.get("AZURE_STORAGE_SAS_TOKEN"):
        return _Versioned(ANONYMOUS)
    login = (secret.get("AZURE_AUTHORITY_HOST") or _LOGIN).rstrip("/")
    if context.store and login not in _LOGINS:
        context.refuse("AZURE_AUTHORITY_HOST", redact(login), context.store)

    def fetch() -> tuple[str, float]:
        form = {
            "grant_type": "client_credentials",
            "client_id": client,
            "scope": "https://storage.azure.com/.default",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": Path(assertion).read_text(),
        }
        url = f"{login}/{quote(tenant)}/oauth2/v2.0/token"
        found = documents.from_json(context.transport.read(url, form=urlencode(form)))
        return str(found["access_token"]), float(found["expires_in"])

    return _Versioned(Token(fetch))
