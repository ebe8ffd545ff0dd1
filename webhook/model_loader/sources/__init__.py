"""The sources of models: one module for each kind, imported only for a URI that needs it."""

import importlib

import model_uri
from model_loader.http.transport import redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, Listing
from model_uri import SCHEMES, WEB, ModelURI, SecretError, URIError
from model_uri.naming import folder_advice

_MODULES = {scheme.name: scheme.source for scheme in SCHEMES.values() if scheme.source}


def parse(text: str) -> ModelURI:
    """Return the parsed URI. Raises LoadError: InvalidSource, or Refused for credentials in it."""
    name, separator, _ = text.partition("://")
    if not separator or name not in _MODULES:
        known = ", ".join(f"{known}://" for known in sorted(_MODULES, key=WEB.__contains__))
        raise LoadError(
            Code.INVALID_SOURCE, f"the loader does not support the scheme {name[:40]!r}", hint=f"Use {known}."
        )
    try:
        return model_uri.parse_model(text, signed=True)
    except SecretError:
        hint = "Put them into a Secret: many users can read a URI."
        raise LoadError(Code.REFUSED, f"{redact(text)} has credentials in it", hint=hint) from None
    except URIError as error:
        why = f"{redact(text)[:400]!r} is not a model URI: {error}{folder_advice(text)}"
        raise LoadError(Code.INVALID_SOURCE, why) from None


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the files below `uri`. Raises LoadError."""
    module = importlib.import_module(f".{_MODULES[uri.scheme]}", __name__)
    try:
        listing: Listing = module.list_files(uri, context)
    except LoadError as failure:
        if failure.code is not Code.NOT_FOUND or "*" not in uri.path:
            raise
        hint = "The * in the URI is a part of the name: write the folder, and the pattern into kubectl-serve.dev/files."
        raise LoadError(failure.code, failure.message, hint=hint, status=failure.status) from None
    return listing
