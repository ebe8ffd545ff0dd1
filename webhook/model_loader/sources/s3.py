"""`s3://bucket/prefix` of Amazon S3 and S3-compatible stores."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from model_loader.http.authorizers import ANONYMOUS, Authorizer
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, Secret, Setting, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import aws_identity, documents, pages
from model_loader.sources.aws_identity import Keys
from model_loader.verify import checksums
from model_uri import ModelURI, hosts, uri_of_path

_NOTHING = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"
_PUBLIC_REGION = re.compile(r"(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]{1,2}", re.ASCII)
"""Bucket names are unique across these regions. China's and the governments' regions have their own names."""
_REGION = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


_OTHER_REGION = "AuthorizationHeaderMalformed"
"""Code of stores for a signature for another region than theirs."""
_NAMED_REGION = re.compile(r"<Region>([^<]*)</Region>")
_GLOBAL = "https://s3.amazonaws.com"
"""AWS's endpoint without a region, as in KServe's examples. It only redirects to the region of a bucket."""
_STYLE = "AWS_S3_ADDRESSING_STYLE"
_VIRTUAL = ("S3_USE_VIRTUAL_BUCKET", "S3_USER_VIRTUAL_BUCKET")
"""KServe's switch; some of its versions misspell it."""
_VARIANTS = (
    ("AWS_S3_USE_ACCELERATE_ENDPOINT", "S3_USE_ACCELERATE"),
    ("AWS_USE_DUALSTACK_ENDPOINT",),
    ("AWS_USE_FIPS_ENDPOINT",),
)
"""Switches for other endpoints of AWS: transfer acceleration, IPv6, FIPS 140-3."""
_VIRTUAL_ONLY = frozenset({"SecondLevelDomainForbidden", "PathStyleDomainForbidden", "VirtualHostDomainRequired"})
"""Codes of stores that refuse the path style: Alibaba OSS, Tencent COS, Huawei OBS."""


class RequestSigner:
    """AWS Signature Version 4 for requests without a body.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self, fetch: Callable[[], Keys], region: str, *, pays: bool = False) -> None:
        """`fetch` returns the current keys, or raises LoadError. `pays`: whether the requester pays for requests."""
        self._fetch = fetch
        self._keys = fetch()
        self._region = region
        self._pays = pays
        self._derived: tuple[str, Keys, hmac.HMAC] | None = None

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        """Add the date, the hash of the empty body, the session token and the signature."""
        now = time.gmtime()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
        day = stamp[:8]
        headers["x-amz-content-sha256"] = _NOTHING
        headers["x-amz-date"] = stamp
        if method in ("GET", "HEAD") and "list-type=2" not in url.query:
            headers["x-amz-checksum-mode"] = "ENABLED"
        keys = self._keys
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        if self._pays:
            headers["x-amz-request-payer"] = "requester"
        signed = {"host": url.netloc} | {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-amz-")}
        names = sorted(signed)
        lines = [method, url.path or "/", url.query, *(f"{name}:{signed[name]}" for name in names), ""]
        canonical = "\n".join([*lines, ";".join(names), _NOTHING])
        scope = f"{day}/{self._region}/s3/aws4_request"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        # Copy an HMAC object: hmac.digest releases the interpreter's lock, and other threads would take it.
        signature = self._signing_key(day, keys).copy()
        signature.update(text.encode())
        signed_by = f"Credential={keys.access}/{scope}, SignedHeaders={';'.join(names)}"
        headers["Authorization"] = f"{_ALGORITHM} {signed_by}, Signature={signature.hexdigest()}"

    def refresh(self) -> bool:
        """Fetch the keys again: a temporary key may have expired, or the Secret may be rotated."""
        try:
            self._keys = self._fetch()
        except LoadError:
            return False
        return True

    def _signing_key(self, day: str, keys: Keys) -> hmac.HMAC:
        if self._derived is None or self._derived[:2] != (day, keys):
            key = f"AWS4{keys.secret}".encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._derived = day, keys, hmac.new(key, digestmod="sha256")
        return self._derived[2]


class Bucket(NamedTuple):
    """The URL of a bucket, and the credentials for it."""

    base: str
    authorizer: Authorizer

    def url(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.base}/{quote(key, safe='/~')}"


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the objects below the prefix, or the one object with exactly that key. Raises LoadError."""
    name, path = uri.host, uri.path
    prefix = path.rstrip("/")
    configured = _region(context)
    try:
        return _list(name, path, prefix, context, configured)
    except LoadError as failure:
        if failure.reason in _VIRTUAL_ONLY:
            why = f"{failure.message}: the store requires the bucket's name in the host name"
            hint = f"Add the key {_STYLE} with the value virtual to the Secret."
            raise LoadError(Code.INVALID_SOURCE, why, hint=hint) from None
        # A redirect to the bucket's region gets no credentials, so the store there refuses with 403.
        region = _region_in(failure)
        if failure.status in (301, 307, 400, 403) and region not in ("", configured):
            return _list(name, path, prefix, context, region)
        if failure.reason == _OTHER_REGION:
            hint = "Add the key AWS_REGION with the region of the store to the Secret."
            raise LoadError(Code.INVALID_SOURCE, failure.message, hint=hint, status=failure.status) from None
        raise


def _region_in(failure: LoadError) -> str:
    """Return the region of the bucket that a store names: AWS in a header, others in the error; empty without one."""
    named = failure.headers.get("x-amz-bucket-region", "")
    found = _NAMED_REGION.search(failure.answer) if not named and failure.reason == _OTHER_REGION else None
    region = found[1] if found else named
    return region if _REGION.fullmatch(region) else ""


def _list(name: str, path: str, prefix: str, context: Context, region: str) -> Listing:
    bucket = _bucket(name, context, region)
    refused: LoadError | None = None
    try:
        files = _objects(bucket, f"{prefix}/" if prefix else "", context)
    except LoadError as failure:
        # The identity may be allowed to read objects but not to list them.
        if failure.code is not Code.UNAUTHORIZED or not prefix or path.endswith("/"):
            raise
        files, refused = [], failure
    if not files and prefix and not path.endswith("/"):
        single = _object(bucket, prefix, context, refused)
        if single is not None:
            return Listing((single,), single=True)
    if not files:
        raise refused or LoadError(Code.NOT_FOUND, f"{uri_of_path('s3', name, path)} holds no object")
    return Listing(tuple(files))


def _region(context: Context) -> str:
    """Return the region, which is a part of host names. Raises LoadError(InvalidSource)."""
    region = context.secret.get("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"
    if not _REGION.fullmatch(region):
        raise LoadError(Code.INVALID_SOURCE, "AWS_REGION is not the name of a region, such as eu-central-1")
    return region


def _keys(secret: Secret) -> Keys | None:
    """Return the keys of the Secret or the environment. Raises LoadError(InvalidSource) if one is missing."""
    access = secret.get("AWS_ACCESS_KEY_ID", "awsAccessKeyID")
    key = secret.get("AWS_SECRET_ACCESS_KEY", "awsSecretAccessKey")
    if bool(access) != bool(key):
        missing = "AWS_SECRET_ACCESS_KEY" if access else "AWS_ACCESS_KEY_ID"
        raise LoadError(Code.INVALID_SOURCE, f"the credentials lack {missing}", hint="Add the key to the Secret.")
    keys = Keys(access, key, secret.get("AWS_SESSION_TOKEN"))
    if not all(part.isascii() and part.isprintable() and " " not in part for part in keys):
        why = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN has a character that no key has"
        raise LoadError(Code.INVALID_SOURCE, why, hint="Correct the key of the Secret.")
    return keys if access else None


def _authorizer(context: Context, region: str) -> Authorizer:
    """Return keys, else the pod's workload identity, else none: requests are then unsigned."""
    secret = context.secret
    if secret.switch("AWS_NO_SIGN_REQUEST", "awsAnonymousCredential"):
        return ANONYMOUS
    pays = secret.get("AWS_REQUEST_PAYER").lower() == "requester"
    if _keys(secret):
        return RequestSigner(lambda: _keys(secret) or Keys("", ""), region, pays=pays)
    if secret.get("AWS_WEB_IDENTITY_TOKEN_FILE") and secret.get("AWS_ROLE_ARN"):
        return RequestSigner(lambda: aws_identity.from_web_identity(context, region), region, pays=pays)
    if secret.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return RequestSigner(lambda: aws_identity.from_container(context), region, pays=pays)
    return ANONYMOUS


def _bucket(name: str, context: Context, region: str) -> Bucket:
    authorizer = _authorizer(context, region)
    endpoint = _endpoint(context)
    style = _style(context.secret)
    if endpoint:
        if variant := next((key for key in _VARIANTS if context.secret.switch(*key)), None):
            why = f"{variant[0]} is for AWS itself, and another endpoint is set"
            raise LoadError(Code.INVALID_SOURCE, why, hint="Remove one of them from the Secret.")
        return Bucket(_url(name, endpoint, virtual=style == "virtual"), authorizer)
    if context.store and not _PUBLIC_REGION.fullmatch(region):
        context.refuse("AWS_REGION or AWS_DEFAULT_REGION", region, context.store)
    return Bucket(_of_aws(name, region, context.secret, virtual=style != "path"), authorizer)


def _endpoint(context: Context) -> str:
    """Return the URL of the store, or an empty text for AWS. KServe's S3_ENDPOINT is HOST:PORT, beside S3_USE_HTTPS."""
    secret = context.secret
    said = secret.setting("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT")
    known = said.key == "S3_ENDPOINT" or secret.setting("S3_USE_HTTPS").text
    if said.text and "://" not in said.text and known:
        scheme = "https" if secret.switch("S3_USE_HTTPS", default=True) else "http"
        said = said._replace(text=f"{scheme}://{said.text}")
    if said.text and said.url() == _GLOBAL:
        said = Setting("", "")
    endpoint = context.endpoint_of(said, "")
    return "" if endpoint == _GLOBAL else endpoint


def _style(secret: Secret) -> str:
    """Return the addressing style: virtual (the bucket in the host name), path, or auto. Raises LoadError."""
    style = secret.get(_STYLE).lower() or "auto"
    if style not in ("auto", "path", "virtual"):
        why = f"{_STYLE} is not an addressing style"
        raise LoadError(Code.INVALID_SOURCE, why, hint="Write virtual, path or auto.")
    return "virtual" if style == "auto" and secret.switch(*_VIRTUAL) else style


def _of_aws(name: str, region: str, secret: Secret, *, virtual: bool) -> str:
    """Return the URL of a bucket of AWS. Raises LoadError(InvalidSource).

    Source: https://docs.aws.amazon.com/general/latest/gr/s3.html
    """
    accelerated, dual, fips = (secret.switch(*keys) for keys in _VARIANTS)
    stack = ".dualstack" if dual else ""
    if not accelerated:
        host = f"s3{'-fips' if fips else ''}{stack}.{region}.{aws_identity.domain(region)}"
        return _url(name, f"https://{host}", virtual=virtual)
    if fips or "." in name:
        why = "AWS_S3_USE_ACCELERATE_ENDPOINT excludes FIPS endpoints, and buckets with a dot in their name"
        raise LoadError(Code.INVALID_SOURCE, why, hint="Remove it from the Secret.")
    return _url(name, f"https://s3-accelerate{stack}.amazonaws.com", virtual=True)


def _url(name: str, endpoint: str, *, virtual: bool) -> str:
    """Return the URL of a bucket. An address cannot have a bucket's name, and wildcard certificates match one label."""
    scheme, _, rest = endpoint.partition("://")
    dotted = "." in name and scheme == "https"
    if not virtual or dotted or hosts.is_address(urlsplit(endpoint).hostname or ""):
        return f"{endpoint}/{name}"
    return f"{scheme}://{name}.{rest}"


def _objects(bucket: Bucket, prefix: str, context: Context) -> list[File]:
    def page(token: str) -> tuple[list[File], str]:
        # Sorted and quoted as the signature requires.
        query = {"continuation-token": token} if token else {}
        query |= {"list-type": "2", "prefix": prefix}
        body = context.transport.read(
            f"{bucket.base}?{urlencode(query, quote_via=quote, safe='~')}", authorizer=bucket.authorizer
        )
        try:
            found = documents.from_xml(body)
        except ValueError:
            raise pages.unreadable(bucket.base, "objects") from None
        space = found.tag.partition("}")[0] + "}" if found.tag.startswith("{") else ""
        files: list[File] = []
        for entry in found.iterfind(f"{space}Contents"):
            key = entry.findtext(f"{space}Key") or ""
            if key.endswith("/") or key == prefix:
                continue  # a marker for a folder
            if not key.startswith(prefix):
                raise LoadError(Code.SERVER_ERROR, f"{bucket.base} listed an object that is not below the prefix")
            etag = entry.findtext(f"{space}ETag") or ""
            files.append(
                File(
                    path=safe_path(key.removeprefix(prefix)),
                    url=bucket.url(key),
                    size=size_of(entry.findtext(f"{space}Size") or 0),
                    authorizer=bucket.authorizer,
                    etag=etag if etag.strip('"') else "",
                    version=entry.findtext(f"{space}LastModified") or "",
                    checksum_on_request=True,
                )
            )
        return files, found.findtext(f"{space}NextContinuationToken") or ""

    return pages.read_all(page)


def _object(bucket: Bucket, key: str, context: Context, refused: LoadError | None) -> File | None:
    try:
        response = context.transport.send("HEAD", bucket.url(key), {}, authorizer=bucket.authorizer)
    except LoadError as failure:
        if failure.code is Code.NOT_FOUND:
            return None
        raise refused or failure from None
    return File(
        path=safe_path(key.rpartition("/")[2]),
        url=bucket.url(key),
        size=size_of(response.headers["content-length"]) if "content-length" in response.headers else -1,
        authorizer=bucket.authorizer,
        etag=response.headers.get("etag", ""),
        version=response.headers.get("last-modified", ""),
        checksum=checksums.from_headers(response.headers),
    )
