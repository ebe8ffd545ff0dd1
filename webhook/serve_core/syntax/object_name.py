"""Names of Kubernetes objects.

Source: k8s.io/apimachinery, ``pkg/util/validation/validation.go``.
"""

import re

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""Pattern of a DNS-1123 label, such as the name of a namespace."""
_PART = r"[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?"
SUBDOMAIN = rf"(?=.{{1,253}}\Z){_PART}(\.{_PART})*"
"""Pattern of a DNS-1123 subdomain, such as the name of a Secret. Only the whole has a maximum length."""

_LABEL = re.compile(LABEL)
_SUBDOMAIN = re.compile(SUBDOMAIN)
_SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def is_label(text: str) -> bool:
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    return _SUBDOMAIN.fullmatch(text) is not None


def is_service_name(text: str) -> bool:
    """Whether a Service can have this name, Kubernetes' or Knative's: a DNS-1035 label."""
    return _SERVICE.fullmatch(text) is not None
