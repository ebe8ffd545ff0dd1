"""The schemes of model URIs: what each names, who reads it, and where it leads. Adding a store begins here."""

import re
from dataclasses import dataclass


@dataclass(eq=False, repr=False)  # fewer methods to make at each start of the loader
class Scheme:
    """One scheme. A URI of a scheme that is not in :data:`SCHEMES` can be read, but names no model."""

    name: str
    example: str = ""
    """How a user writes it; empty for a scheme that no Deployment can have."""
    source: str = ""
    """The module of ``model_loader.sources`` that reads it; empty for what is mounted."""
    host: str = "host"
    """What stands in the place of a host, as in "it names no bucket"."""
    names: str = ""
    """What :attr:`rule` is about, as in "is not a bucket's name"; empty where a host name stands there."""
    rule: re.Pattern[str] | None = None
    """What such a name must match."""
    port: int | None = None
    """The port if a URI has none."""
    public: bool = False
    """Whether the URI alone says where it leads. A container in Azure needs an account as well."""
    movable: bool = False
    """Whether the store can be at any endpoint. A web address is its own endpoint."""
    folders: bool = False
    """Whether a URI names everything below it."""


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
        ),
        Scheme(
            "oci", "oci://registry/repository:tag", "registry", host="registry", port=443, public=True, movable=True
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
"""Scheme by name, in the order of messages and documentation."""
UNKNOWN = Scheme("")


def scheme_of(name: str) -> Scheme:
    """The scheme of that name, or :data:`UNKNOWN`."""
    return SCHEMES.get(name, UNKNOWN)
