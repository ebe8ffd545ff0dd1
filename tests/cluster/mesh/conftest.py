"""Fixtures of the tests in a real mesh: ``scripts/test mesh`` runs them in a cluster with Istio."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.mesh.support import (
    INJECTED,
    ISSUER,
    ISTIO,
    KNATIVE,
    Issuer,
    completed,
    into_the_mesh,
    publish,
    rolled_out,
)
from cluster.support import Ingress, Namespace, Store, created, diagnose, eventually, obey

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def mesh(ingress: Ingress) -> None:
    """Istio with native sidecars, and Knative in its mesh as the doctor wants it."""
    if ISTIO.run("kubectl", "get", "deployment", "istiod", check=False).returncode:
        pytest.fail("no Istio: run scripts/test mesh, or scripts/cluster up --istio", pytrace=False)
    into_the_mesh(KNATIVE)
    for check in ("istio-knative", "istio-mesh-compatibility"):
        found = diagnose()[1][check]
        if found["verdict"] == "failed":
            obey(found["fix"])
    rolled_out(KNATIVE)


@pytest.fixture(scope="session")
def issuer(mesh: None) -> Iterator[Issuer]:
    """An issuer whose keys istiod can read."""
    found = Issuer()
    with created(ISSUER):
        publish(found)
        yield found


@contextmanager
def member(store: Store) -> Iterator[Namespace]:
    """A namespace of the mesh, with the credentials of a store outside of the mesh. `istio-init` is root there."""
    with created(Namespace(f"mesh-{next(_numbers)}"), "privileged", INJECTED) as namespace:
        namespace.apply(store.secret())
        eventually(lambda: "istio" in completed(namespace), 60, "the server sees that the namespace is injected")
        yield namespace


@pytest.fixture
def team(mesh: None, store: Store) -> Iterator[Namespace]:
    with member(store) as namespace:
        yield namespace


@pytest.fixture(scope="module")
def shared(mesh: None, store: Store) -> Iterator[Namespace]:
    """As `team`, for all tests of a file."""
    with member(store) as namespace:
        yield namespace
