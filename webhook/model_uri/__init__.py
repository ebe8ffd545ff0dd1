"""Where a model is: one reading of its URI, its other names, and sets of places.

Admission, policies, the loader and the command share it. It has no I/O and imports nothing of the project.
"""

from model_uri.places import Place, parse_place
from model_uri.uri import LONGEST, WEB, ModelURI, SecretError, URIError, model, of_path, read

__all__ = [
    "LONGEST", "WEB", "ModelURI", "Place", "SecretError", "URIError", "model", "of_path", "parse_place", "read",
]  # fmt: skip
