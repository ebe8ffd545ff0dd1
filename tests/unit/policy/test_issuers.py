"""Issuers of accepted tokens: Istio fetches keys from public https URLs only, and a policy can limit these."""

import json

import pytest
import yaml

from serve_core.api.serving_spec import read
from serve_core.base.json import JsonObject
from serve_core.policy.evaluate import findings
from serve_core.policy.parse import PolicyError, read_policy
from serve_core.subjects.build import subject_of
from serve_core.syntax.public_url import is_public
from support.reviews import context_with

PREFIX = "kubectl-serve.dev/"
PUBLIC = (
    "https://login.example.com",
    "https://login.example.com/",
    "https://login.example.com:8443/realms/models",
    "https://accounts.google.com",
    "https://login.microsoftonline.com/4b4a/v2.0",
    "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC",
    "https://xn--e1afmkfd.xn--p1ai/keys",
    "https://t.co",
)
NOT_PUBLIC = (
    "http://login.example.com", "http://169.254.169.254/latest/meta-data", "https://169.254.169.254", "HTTPS://a.example",
    "https://127.0.0.1", "https://127.1", "https://2130706433", "https://0x7f000001", "https://0177.0.0.1", "https://[::1]",
    "https://[fd00:ec2::254]", "https://localhost", "https://localhost.localdomain", "https://metadata.google.internal",
    "https://metadata", "https://instance-data.ec2.internal", "https://kubernetes.default", "https://kubernetes.default.svc",
    "https://vault.prod.svc.cluster.local", "https://vault.prod.svc.corp.example", "https://vault.team-a", "https://router.lan",
    "https://1.0.0.10.in-addr.arpa", "https://user@login.example.com", "https://user:pass@login.example.com",
    "https://login.example.com#x", "https://login.example.com?x=y", "https://login.example.com\\@evil.example",
    "https://login.example.com.", "https://login..example.com", "https://-a.example.com", "https://LOGIN.example.com",
    "https://login.example.com:", "https://login.example.com:0", "https://login.example.com:999999",
    "https://login.example.com/a/../b", "https://login.example.com/%2E%2e/b", "https://", "https:///keys", "ftp://a.example",
    "//login.example.com", "https://login.example.com\n", "https://" + "a." * 140 + "com", "https://ex\u0430mple.com",
)  # fmt: skip


def read_codes(**notes: str) -> set[str]:
    wanted = {"model": "s3://models/a.onnx", "auth": "jwt"} | {
        key.replace("_", "-"): text for key, text in notes.items()
    }
    return {found.code for found in read({PREFIX + key: text for key, text in wanted.items()})[1]}


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_issuer_is_accepted_like_its_keys(url: str) -> None:
    assert is_public(url)
    assert read_codes(auth_issuer=url) == set()
    assert read_codes(auth_issuer=url, auth_jwks=url) == set()


@pytest.mark.attack(31)
@pytest.mark.parametrize("url", NOT_PUBLIC)
def test_nothing_makes_istio_fetch_what_is_not_public(url: str) -> None:
    assert not is_public(url)
    assert read_codes(auth_issuer=url) <= {"IssuerNotPublic", "InvalidAnnotation"}
    assert read_codes(auth_issuer=url), "its keys would be fetched"
    assert read_codes(auth_issuer="https://login.example.com", auth_jwks=url) == {"InvalidAnnotation"}


@pytest.mark.attack(31)
def test_an_issuer_that_is_no_url_needs_its_keys_named() -> None:
    for issuer in ("accounts.google.com", "models@project.iam.gserviceaccount.com", "https://kubernetes.default.svc"):
        assert read_codes(auth_issuer=issuer) == {"IssuerNotPublic"}
        assert read_codes(auth_issuer=issuer, auth_jwks="https://keys.example.com/keys") == set()
    assert read_codes(auth_issuer="http://a.example.com", auth_jwks="https://keys.example.com") == {"InvalidAnnotation"}


def policy(issuers: list[str]) -> JsonObject:
    spec = {"rules": [{"name": "callers", "auth": {"allow": ["jwt"], "issuers": issuers}}]}
    head = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy", "metadata": {"name": "p"}}
    return head | {"spec": spec}


def found(issuers: list[str], **notes: str) -> list[str]:
    annotations = {"model": "s3://models/a.onnx", "auth": "jwt"} | {k.replace("_", "-"): v for k, v in notes.items()}
    metadata = {"name": "iris", "namespace": "ml", "annotations": {PREFIX + k: v for k, v in annotations.items()}}
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"template": {"spec": {}}}}
    subject = subject_of(manifest, context_with())
    assert subject is not None
    (rule,) = read_policy(policy(issuers)).spec.rules
    return [
        problem.path.partition("[")[2].removeprefix(PREFIX).rstrip("]") for problem in findings(rule, subject, "p/r")
    ]


LOGIN = "https://login.example.com/realms/models"


@pytest.mark.attack(31)
def test_a_policy_limits_issuers_and_their_keys() -> None:
    assert found([LOGIN], auth_issuer=LOGIN) == []
    assert found([LOGIN], auth_issuer=LOGIN, auth_jwks=f"{LOGIN}/keys") == []
    assert found(["https://login.example.com/"], auth_issuer=LOGIN) == []
    assert found([LOGIN], auth_issuer=LOGIN, auth_jwks="https://evil.example/keys") == ["auth-jwks"]
    for other in (
        "https://evil.example", f"{LOGIN}-evil", "https://login.example.com", "https://login.example.com.evil.example",
        "https://login.example.com:8443/realms/models", "http://login.example.com/realms/models", "accounts.google.com",
    ):  # fmt: skip
        assert found([LOGIN], auth_issuer=other) == ["auth-issuer"]
    assert found([], auth_issuer="https://anybody.example") == []


@pytest.mark.parametrize(
    "place", ["http://login.example.com", "login.example.com", "https://10.0.0.1", "https://*.example.com"]
)
def test_a_policy_with_an_issuer_that_is_not_public_is_never_stored(place: str) -> None:
    with pytest.raises(PolicyError, match="issuers"):
        read_policy(yaml.safe_load(json.dumps(policy([place]))))
