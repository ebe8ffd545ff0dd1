"""The schemes of model URIs: what each names, which module reads it, and where it leads. A new store starts here."""

import re
from typing import NamedTuple


class Scheme(NamedTuple):
    """One scheme. A URI with another scheme than those in :data:`SCHEMES` can be parsed, but names no model."""

    name: str
    example: str = ""
    """An example for users; empty for a scheme that a Deployment cannot have."""
    source: str = ""
    """The module of ``model_loader.sources`` for it; empty for a mounted volume."""
    host: str = "host"
    """What the host names, as in "it names no bucket"."""
    names: str = ""
    """What :attr:`rule` checks, as in "is not a bucket's name"; empty for a host name."""
    rule: re.Pattern[str] | None = None
    """The pattern for such a name."""
    port: int | None = None
    """The default port."""
    public: bool = False
    """Whether there is a public default store. Azure has none: a container also needs an account."""
    movable: bool = False
    """Whether the store's endpoint is configurable. A web address is its own endpoint."""
    folders: bool = False
    """Whether a URI names everything below it."""
    named: bool = False
    """Whether the path begins with the name of a repository or model; ``ModelURI.inside`` is the path behind it."""
    format: str = ""
    """The format of its models, if no file name and no annotation says another one."""


SCHEMES = {
    each.name: each
    for each in (
        Scheme("http", "http://host/path/model.joblib", "web", port=80, public=True),
        Scheme("https", "https://host/path/model.joblib", "web", port=443, public=True),
        Scheme(
            "s3",
            "s3://bucket/path",
            "s3",
            host="bucket",
            names="a bucket's name",
            rule=re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII),
            public=True,
            movable=True,
            folders=True,
        ),
        Scheme(
            "gs",
            "gs://bucket/path",
            "google",
            host="bucket",
            names="a bucket's name",
            rule=re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII),
            public=True,
            movable=True,
            folders=True,
        ),
        Scheme(
            "az",
            "az://container/path",
            "azure",
            host="container",
            names="a container's name",
            rule=re.compile(r"\$root|[a-z0-9](-?[a-z0-9]){2,62}", re.ASCII),
            movable=True,
            folders=True,
        ),
        Scheme(
            "hf",
            "hf://organisation/model@revision",
            "huggingface",
            host="organisation",
            names="an organisation's name",
            rule=re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}", re.ASCII),
            public=True,
            movable=True,
            folders=True,
            named=True,
            format="huggingface",
        ),
        Scheme(
            "oci",
            "oci://registry/repository:tag",
            "registry",
            host="registry",
            port=443,
            public=True,
            movable=True,
            named=True,
        ),
        Scheme(
            "mlflow",
            "mlflow://server/model/1",
            "mlflow",
            host="tracking server",
            port=443,
            public=True,
            movable=True,
            folders=True,
            named=True,
            format="mlflow",
        ),
        Scheme(
            "git+https",
            "git+https://host/organisation/repository@commit",
            "git",
            port=443,
            public=True,
            folders=True,
            named=True,
        ),
        Scheme(
            "pvc",
            "pvc://claim/path",
            host="claim",
            names="a claim's name",
            rule=re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII),
            folders=True,
        ),
        Scheme("file", source="local", folders=True),
    )
}
"""Schemes by name, in the order of messages and documentation."""
UNKNOWN = Scheme("")


def scheme_of(name: str) -> Scheme:
    """Return the scheme of that name, or :data:`UNKNOWN`."""
    return SCHEMES.get(name, UNKNOWN)
