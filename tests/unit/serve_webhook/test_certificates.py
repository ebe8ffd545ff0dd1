"""Renewal of the certificates, with a controlled clock."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from serve_webhook.certs import authority
from serve_webhook.certs.authority import Material, advance, issue, replace_key, trusts

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def names(certificate: x509.Certificate) -> list[str]:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )


def test_a_new_leaf_is_for_the_service_and_trusted_by_the_bundle() -> None:
    material = issue(START)
    assert trusts(material.bundle, material.leaf.certificate)
    assert "kubectl-serve.kubectl-serve.svc" in names(material.leaf.certificate)
    assert advance(material, START, published=True) is material


def test_the_secret_gives_back_what_was_put_in() -> None:
    material = replace_key(issue(START), START + DAY)
    assert Material.from_files(material.to_files()).to_files() == material.to_files()


def _without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {key: value for key, value in files.items() if key != name}


@pytest.mark.parametrize(
    "spoil",
    [
        _without("tls.key"),
        _without("ca.crt"),
        lambda files: files | {"tls.crt": b"nonsense"},
        lambda files: files | {"tls.key": issue(START).to_files()["tls.key"]},
        lambda files: files | {"ca.crt": issue(START).to_files()["ca.crt"]},
        lambda files: files | {name: issue(START).to_files()[name] for name in ("ca.crt", "ca.key")},
    ],
    ids=["no key", "no authority", "nonsense", "another key", "another authority", "another signer"],
)
def test_what_does_not_fit_together_is_not_accepted(spoil: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Material.from_files(spoil(issue(START).to_files()))


def test_a_leaf_is_renewed_after_two_thirds_of_its_life_by_the_same_authority() -> None:
    material = issue(START)
    assert advance(material, START + 59 * DAY, published=True) is material
    renewed = advance(material, START + 61 * DAY, published=True)
    assert renewed.leaf.certificate != material.leaf.certificate
    assert renewed.bundle == material.bundle


def test_an_authority_is_renewed_with_its_key_so_that_old_leaves_still_verify() -> None:
    material = issue(START)
    now = START + 250 * DAY
    material = advance(material, now, published=True)  # the leaf had ended
    renewed = advance(material, now, published=True)
    assert renewed.authority.certificate != material.authority.certificate
    assert renewed.authority.key is material.authority.key
    assert renewed.previous is None
    assert trusts(renewed.bundle, material.leaf.certificate)


def test_a_key_is_replaced_in_steps_and_every_leaf_is_trusted_at_every_step() -> None:
    material, now, steps = issue(START), START + 366 * DAY, []
    for _ in range(80):
        following = advance(material, now, published=True)
        if following is not material:
            assert trusts(following.bundle, material.leaf.certificate), "a replica that serves the old leaf"
            assert trusts(material.bundle, following.leaf.certificate) or following.previous, "an old bundle"
            steps.append((following.previous is not None, following.leaf_is_current))
        material, now = following, now + HOUR / 10
    assert steps == [
        (False, True),  # the leaf had expired: the old key signs a new one
        (True, False),  # the new authority joins the bundle
        (True, True),  # leaves are signed by it
        (False, True),  # the old one goes
    ]


def test_no_leaf_is_signed_by_a_new_authority_before_it_is_published() -> None:
    material = replace_key(issue(START), START)
    assert advance(material, START + 2 * HOUR, published=False) is material
    assert not advance(material, START + HOUR / 2, published=True).leaf_is_current
    assert advance(material, START + 2 * HOUR, published=True).leaf_is_current


def test_a_server_that_was_off_for_years_recovers() -> None:
    material, now = issue(START), START + 1500 * DAY
    for _ in range(4):
        material = advance(material, now, published=True)
        now += 2 * HOUR
    assert material.authority.certificate.not_valid_after_utc > now
    assert material.leaf.certificate.not_valid_after_utc > now
    assert trusts(material.bundle, material.leaf.certificate)


@pytest.mark.parametrize("bundle", [b"", b"nonsense"])
def test_a_broken_bundle_trusts_nothing(bundle: bytes) -> None:
    assert not trusts(bundle, issue(START).leaf.certificate)


def test_the_bundle_is_what_a_strict_client_accepts() -> None:
    material = issue(datetime.now(UTC))
    verifier = (
        x509.verification.PolicyBuilder()
        .store(x509.verification.Store([material.authority.certificate]))
        .build_server_verifier(x509.DNSName("kubectl-serve.kubectl-serve.svc"))
    )
    assert verifier.verify(material.leaf.certificate, [])
    assert authority.LEAF_LIFETIME < authority.AUTHORITY_LIFETIME
