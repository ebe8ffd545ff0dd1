"""Request timeouts by Knative's ConfigMap ``config-defaults``."""

from collections.abc import Mapping

import pytest

from serve_core.knative.timeouts import Timeouts, read


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({}, Timeouts(300, 600, 300)),
        ({"_example": "text"}, Timeouts(300, 600, 300)),
        ({"max-revision-timeout-seconds": "3600"}, Timeouts(300, 3600, 300)),
        ({"revision-timeout-seconds": "600"}, Timeouts(600, 600, 600)),
        ({"revision-timeout-seconds": "60", "revision-response-start-timeout-seconds": "10"}, Timeouts(60, 600, 10)),
        ({"revision-response-start-timeout-seconds": "0"}, Timeouts(300, 600, 0)),
    ],
)
def test_the_cluster_sets_the_bounds(data: Mapping[str, str], found: Timeouts) -> None:
    assert read(data) == found


@pytest.mark.parametrize(
    "data",
    [
        {"max-revision-timeout-seconds": "1h"},
        {"max-revision-timeout-seconds": "60"},
        {"max-revision-timeout-seconds": "3600", "revision-timeout-seconds": "7200"},
        {"max-revision-timeout-seconds": "3600", "revision-timeout-seconds": ""},
        {"max-revision-timeout-seconds": "9" * 5000},
    ],
)
def test_a_configuration_that_knative_refuses_means_its_own_values(data: Mapping[str, str]) -> None:
    assert read(data) == Timeouts()
