"""Where places lead, and which authorities they trust. The operator fixes it; the loader gets it as arguments."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from model_uri import naming
from model_uri.places import Place, parse_place
from model_uri.schemes import scheme_of
from model_uri.uri import WEB, ModelURI, URIError, parse

ANYWHERE = "*"
"""The endpoint of a place for which the user's Secret names the store."""
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+", re.ASCII)
_MAX_AUTHORITIES = 32 << 10
"""Maximum characters: the authorities become an argument."""
_NONE = "-"


@dataclass(frozen=True)
class Store:
    """A place and its store. Raises URIError if the place cannot lead to that store.

    ``endpoint``: the URL of the store; empty for the scheme's public one: Hugging Face's hub, AWS's S3, Google's
    storage, or the registry or web server in the URI. ``ca``: PEM text of authorities to trust in addition to the
    public ones.
    """

    place: str
    endpoint: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        scheme = scheme_of(self.where.uri.scheme)
        if not (scheme.public or scheme.movable):
            raise URIError(f"{self.where.uri.scheme}:// is not the scheme of a store")
        if self.endpoint not in ("", ANYWHERE):
            if not scheme.movable:
                raise URIError(f"{scheme.name}:// has no endpoint except its host")
            store = parse(self.endpoint)
            if store.scheme not in WEB or str(store) != self.endpoint:
                raise URIError("the endpoint is not a plain http or https URL, such as https://minio.example.com")
        if self.ca and (len(self.ca) > _MAX_AUTHORITIES or not _is_pem(self.ca)):
            raise URIError("ca is not a certificate in PEM")

    @cached_property
    def where(self) -> Place:
        """The parsed place."""
        return parse_place(self.place)

    @property
    def is_fixed(self) -> bool:
        """Return whether all URIs of the place lead to one store, independent of the credentials.

        Plain http authenticates nothing, so the place must name the host; the operator then trusts the network.
        """
        if self.endpoint == ANYWHERE:
            return False
        if self.where.uri.scheme == "http":
            return not self.where.wild
        return bool(self.endpoint) or scheme_of(self.where.uri.scheme).public

    @property
    def is_plain(self) -> bool:
        """Return whether requests go without TLS, so that any machine on the path can answer."""
        return (self.endpoint or self.place).startswith("http:")

    def leads_as(self, other: "Store") -> bool:
        """Return whether both lead to the same store and trust the same authorities."""
        return (self.endpoint, self.ca.strip()) == (other.endpoint, other.ca.strip())

    @cached_property
    def _base(self) -> ModelURI:
        return parse(self.endpoint)

    def names_of(self, uri: ModelURI) -> Iterator[ModelURI]:
        """Return a web address as URIs of the store, and a URI of the place as the web addresses for requests."""
        base, here = self._base, self.where.uri
        if self.where.holds(uri):
            yield from self._addresses(uri)
        if uri.scheme not in WEB:
            return
        path = uri.segments[len(base.segments) :]
        if uri.segments[: len(base.segments)] != base.segments:
            return
        found: Iterable[ModelURI] = ()
        if here.scheme == "s3" and (bucket := _bucket_of(uri, base)):
            found = [ModelURI("", "s3", bucket, None, path)]
        elif path and _origin(uri) == _origin(base):
            found = naming.in_store(here.scheme, path)
        for each in found:
            if here.scheme == "oci":
                yield replace(each, host=naming.ANY if self.where.wild else here.host, port=here.port)
            else:
                yield each
            if here.scheme == "s3":
                yield from self._addresses(each)

    def _addresses(self, uri: ModelURI) -> Iterator[ModelURI]:
        """Return the web addresses of a URI. S3 has two styles: the bucket in the path, or in the host name."""
        base = self._base
        if uri.scheme == "hf":
            path = naming.address_in_hub(uri)
        else:
            path = ("v2" if uri.scheme == "oci" else uri.host, *uri.segments)
        yield replace(base, segments=(*base.segments, *path))
        if uri.scheme == "s3":
            yield replace(base, host=f"{uri.host}.{base.host}", segments=(*base.segments, *uri.segments))

    @property
    def argument(self) -> str:
        """The value of the loader's ``--store``: PLACE, ENDPOINT or ``-``, and the authorities in base64."""
        words = [self.place, self.endpoint or _NONE]
        if self.ca:
            words.append(base64.b64encode(self.ca.encode()).decode())
        return " ".join(words)

    @classmethod
    def of_argument(cls, text: str) -> "Store":
        """Parse the value of :attr:`argument`. Raises URIError."""
        words = text.split(" ")
        if len(words) not in (2, 3):
            raise URIError("it must be PLACE ENDPOINT or PLACE ENDPOINT CA")
        place, endpoint, *ca = words
        try:
            pem = base64.b64decode(ca[0], validate=True).decode() if ca else ""
        except (binascii.Error, UnicodeDecodeError):
            raise URIError("its CA is not base64-encoded PEM") from None
        return cls(place, "" if endpoint == _NONE else endpoint, pem)


def _origin(web: ModelURI) -> tuple[str, int]:
    return web.host, web.port or scheme_of(web.scheme).port or 0


def _bucket_of(web: ModelURI, store: ModelURI) -> str:
    """Return the bucket in the host name of an address at a store; empty if there is none."""
    bucket = web.host.removesuffix(f".{store.host}")
    return bucket if bucket != web.host and _origin(web)[1] == _origin(store)[1] else ""


def _is_pem(text: str) -> bool:
    body, end, _ = text.partition(_BEGIN)[2].partition(_END)
    return bool(end) and _BASE64.fullmatch(body) is not None


def find_store(uri: ModelURI, stores: Iterable[Store]) -> Store | None:
    """Return the narrowest of ``stores`` that holds ``uri``; the first of several equally narrow ones."""
    holding = (store for store in stores if store.where.holds(uri))
    return max(holding, key=lambda store: store.where.specificity, default=None)
