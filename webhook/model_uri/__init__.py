"""Model URIs: one parser, the aliases of a URI, the places of policies, and the stores that places lead to.

Admission, policies, the loader and the command share it. It does no I/O and imports nothing of the project.
"""

from model_uri.places import Place, parse_place
from model_uri.schemes import SCHEMES
from model_uri.stores import ANYWHERE, Store, find_store
from model_uri.uri import (
    MAX_LENGTH,
    WEB,
    ModelURI,
    SecretError,
    URIError,
    encode_path,
    parse,
    parse_model,
    uri_of_path,
    without_secrets,
)

__all__ = [
    "ANYWHERE", "MAX_LENGTH", "SCHEMES", "WEB", "ModelURI", "Place", "SecretError", "Store", "URIError", "encode_path",
    "find_store", "parse", "parse_model", "parse_place", "uri_of_path", "without_secrets",
]  # fmt: skip
