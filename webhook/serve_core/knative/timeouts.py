"""Request timeouts, as ConfigMap ``knative-serving/config-defaults`` bounds them.

Source: Knative Serving 1.23, ``pkg/apis/config/defaults.go`` and ``pkg/apis/serving/v1/revision_defaults.go``.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

DEFAULT, MAXIMUM, RESPONSE_START = (
    "revision-timeout-seconds",
    "max-revision-timeout-seconds",
    "revision-response-start-timeout-seconds",
)
"""Keys of the ConfigMap."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


class Timeouts(NamedTuple):
    """Seconds. The initial values are Knative's own."""

    default: int = 300
    """Of a Service that sets no timeout."""
    maximum: int = 600
    response_start: int = 300
    """For the first byte of a response, in a Service that sets no such timeout; 0 for none."""


def read(defaults: Mapping[str, str]) -> Timeouts:
    """The timeouts of a cluster. ``defaults``: the data of the ConfigMap.

    Knative refuses a ConfigMap with an invalid number, or with a default above the maximum.
    """
    known = Timeouts()
    keys = {key: str(defaults[key]) for key in (DEFAULT, MAXIMUM, RESPONSE_START) if key in defaults}
    if not all(map(_NUMBER.fullmatch, keys.values())):
        return known
    default = int(keys.get(DEFAULT, known.default))
    found = Timeouts(default, int(keys.get(MAXIMUM, known.maximum)), int(keys.get(RESPONSE_START, default)))
    return found if found.response_start <= found.default <= found.maximum else known
