"""URIs with placeholders, by which a policy says where the models of the Deployments that it adopts are."""

import re

PLACEHOLDERS = ("{label}", "{name}", "{namespace}")
"""The adopting label's value, and the Deployment's own name and namespace."""

_ANY = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


def has_strangers(template: str) -> bool:
    """Whether there are braces in it that are no placeholder's."""
    rest = _ANY.sub("", template)
    return "{" in rest or "}" in rest


def filled_in(template: str, *, label: str, name: str, namespace: str) -> str:
    """The URI for one Deployment. What is put in is not read for placeholders again."""
    values = dict(zip(PLACEHOLDERS, (label, name, namespace), strict=True))
    return _ANY.sub(lambda found: values[found[0]], template)
