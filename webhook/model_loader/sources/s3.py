"""`s3://bucket/prefix` of Amazon S3 and S3-compatible stores."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlencode

from model_loader.http.authorizers import ANONYMOUS, Authorizer
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, Secret, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import aws_identity, documents, pages
from model_loader.sources.aws_identity import Keys
from model_loader.verify import checksums
from model_uri import ModelURI, uri_of_path

_NOTHING = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"
_PUBLIC_REGION = re.compile(r"(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]{1,2}", re.ASCII)
"""Bucket names are unique across these regions. China's and the governments' regions have their own names."""
_REGION = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


class RequestSigner:
    """AWS Signature Version 4 for requests without a body.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self, fetch: Callable[[], Keys], region: str) -> None:
        """`fetch` returns the current keys, or raises LoadError."""
        self._fetch = fetch
        self._keys = fetch()
        self._region = region
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
    try:
        return _list(name, path, prefix, context, _region(context))
    except LoadError as failure:
        region = failure.headers.get("x-amz-bucket-region", "")
        if failure.status in (301, 307, 400) and _REGION.fullmatch(region):
            return _list(name, path, prefix, context, region)
        raise


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
    return Keys(access, key, secret.get("AWS_SESSION_TOKEN")) if access else None


def _authorizer(context: Context, region: str) -> Authorizer:
    """Return keys, else the pod's workload identity, else none: requests are then unsigned."""
    secret = context.secret
    if _keys(secret):
        return RequestSigner(lambda: _keys(secret) or Keys("", ""), region)
    if secret.get("AWS_WEB_IDENTITY_TOKEN_FILE") and secret.get("AWS_ROLE_ARN"):
        return RequestSigner(lambda: aws_identity.from_web_identity(context, region), region)
    if secret.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return RequestSigner(lambda: aws_identity.from_container(context), region)
    return ANONYMOUS


def _bucket(name: str, context: Context, region: str) -> Bucket:
    authorizer = _authorizer(context, region)
    endpoint = context.endpoint("", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if not endpoint and context.store and not _PUBLIC_REGION.fullmatch(region):
        context.refuse("AWS_REGION or AWS_DEFAULT_REGION", region, context.store)
    if endpoint:
        return Bucket(f"{endpoint}/{name}", authorizer)
    domain = f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    # The wildcard certificate does not match a bucket name with dots.
    return Bucket(f"https://{domain}/{name}" if "." in name else f"https://{name}.{domain}", authorizer)


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
            raise LoadError(Code.SERVER_ERROR, f"{bucket.base} did not answer with a list of objects") from None
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
