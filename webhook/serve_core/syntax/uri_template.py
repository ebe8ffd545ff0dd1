"""URIs with placeholders: where a policy finds the models of the Deployments that it adopts."""

import re

PLACEHOLDERS = ("{label}", "{name}", "{namespace}")
"""The value of the adopt label, and the name and namespace of the Deployment."""

_ANY = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


def has_unknown_placeholders(template: str) -> bool:
    """Whether the template has braces that are not part of a placeholder."""
    rest = _ANY.sub("", template)
    return "{" in rest or "}" in rest


def expand(template: str, *, label: str, name: str, namespace: str) -> str:
    """The URI for one Deployment. Placeholders in the inserted values stay as they are."""
    values = dict(zip(PLACEHOLDERS, (label, name, namespace), strict=True))
    return _ANY.sub(lambda found: values[found[0]], template)
