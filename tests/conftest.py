"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: what counts is the examples, not how long each takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="module")
def frozen_runtimes() -> Iterator[None]:
    """The command knows the runtimes of ``tests/golden/runtimes`` instead of the installed ones."""
    from kubectl_serve.install import manifests
    from support import golden

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "runtime_files", golden.runtime_files)
        yield
