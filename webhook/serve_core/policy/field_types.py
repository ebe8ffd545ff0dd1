"""Field types that policies and their rules share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from model_uri import Store
from serve_core.api.schema import doc, schema_of

DNS = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_GLOB = r"^[a-z0-9*]([-a-z0-9.*]{0,251}[a-z0-9*])?$"
Action = Literal["Deny", "Warn", "Audit"]
"""What a finding does."""
Text = Annotated[str, Field(min_length=1, max_length=253)]
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS)]
Glob = Annotated[str, Field(min_length=1, max_length=253, pattern=_GLOB)]
Uri = Annotated[str, Field(min_length=1, max_length=512)]
Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([numkMGTPE]|[KMGTPE]i)|[eE][+-]?[0-9]{1,2})?$",
        }
    ),
]


@schema_of()
@dataclass(frozen=True)
class StoreAt:
    """The endpoint of a place and its certificate authorities. The user's Secret cannot change them."""

    place: Annotated[str, doc("A place, such as s3://BUCKET/PATH or hf://ORGANISATION.", min_length=1, max_length=512)]
    endpoint: Annotated[
        str,
        doc(
            "URL of the store, such as https://minio.example.com; for Azure, https://ACCOUNT.blob.core.windows.net. "
            "Empty: the scheme's public endpoint. *: the endpoint in the user's Secret.",
            max_length=512,
        ),
    ] = ""
    ca: Annotated[
        str, doc("Certificate authorities to trust in addition to the public ones, in PEM.", max_length=32768)
    ] = ""

    @cached_property
    def store(self) -> Store:
        """The same in the form that the loader reads. Raises URIError."""
        return Store(self.place, self.endpoint, self.ca)


def read_stores(written: object) -> tuple[Store, ...]:
    """Read the stores of the server's settings. Raises ValueError."""
    return tuple(each.store for each in TypeAdapter(tuple[StoreAt, ...]).validate_python(written))
