"""Where models come from: one module a kind of place, imported only when a URI asks for it."""

import importlib

from model_loader.model import Context, Listing
from model_loader.outcomes import Code, LoadError

_MODULES = {
    "s3": "s3",
    "gs": "google",
    "az": "azure",
    "hf": "huggingface",
    "oci": "registry",
    "https": "web",
    "http": "web",
    "file": "local",
}


def scheme(uri: str) -> str:
    """Return the scheme of `uri`. Raises LoadError(InvalidSource) where the loader does not know it."""
    name, separator, _ = uri.partition("://")
    if not separator or name not in _MODULES:
        known = ", ".join(f"{known}://" for known in _MODULES)
        raise LoadError(
            Code.INVALID_SOURCE, f"the loader does not know how to read {name[:40]!r}", hint=f"Use {known}."
        )
    return name


def list_files(uri: str, context: Context) -> Listing:
    """Return the files below `uri`. Raises LoadError."""
    module = importlib.import_module(f".{_MODULES[scheme(uri)]}", __name__)
    listing: Listing = module.list_files(uri, context)
    return listing
