"""The addresses of a cluster."""

import itertools
from ipaddress import IPv4Network

import pytest

from localcluster import network
from localcluster.errors import ClusterError


def test_the_first_candidate_is_chosen_on_a_machine_without_routes() -> None:
    assert network.first_free([]).block == network.CANDIDATES[0]


def test_a_block_that_overlaps_with_a_route_is_skipped() -> None:
    inside_the_first = IPv4Network((network.CANDIDATES[0][77], 32))
    assert network.first_free([inside_the_first]).block == network.CANDIDATES[1]


def test_a_default_route_in_two_halves_leaves_nothing_free() -> None:
    with pytest.raises(ClusterError, match="no free network"):
        network.first_free([IPv4Network("0.0.0.0/1")])


def test_links_services_and_pods_share_no_address() -> None:
    cluster = network.Network(IPv4Network("10.9.0.0/16"))
    links = [cluster.link(number + 1) for number in range(network.MAX_NODES)]
    ends = [IPv4Network((int(link.gateway) - 1, network.LINK_PREFIX)) for link in links]

    for link, both in zip(links, ends, strict=True):
        assert {link.gateway, link.node} == set(both.hosts())
        assert link.pods.subnet_of(cluster.pods)
    parts = [*ends, cluster.services, *(link.pods for link in links)]
    for one, other in itertools.combinations(parts, 2):
        assert not one.overlaps(other)
    for part in parts:
        assert part.subnet_of(cluster.block)
    assert cluster.api_service in cluster.services
    assert cluster.dns_service in cluster.services
