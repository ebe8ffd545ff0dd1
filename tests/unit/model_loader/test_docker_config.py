"""The credentials for a registry: keys of docker configurations mean what they mean to the kubelet."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from model_loader.outcomes import LoadError
from model_loader.plan.model import Secret
from model_loader.sources.docker_config import Login, logins, names

ENTRY = {"username": "user", "password": "secret"}
LOGIN = Login("user:secret")


def secret(folder: Path, files: Mapping[str, object]) -> Secret:
    """A mounted Secret."""
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return Secret(folder, {})


def docker_config(folder: Path, content: object) -> Secret:
    """A mounted Secret of the type kubernetes.io/dockerconfigjson."""
    return secret(folder, {".dockerconfigjson": content})


def found(folder: Path, auths: object, registry: str, repository: str) -> list[str]:
    """The user names for a repository, in the order of trial."""
    mounted = docker_config(folder, {"auths": auths})
    return [login.basic.partition(":")[0] for login in logins(mounted, registry, repository)]


HUB = "registry-1.docker.io"


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", HUB),
        ("https://index.docker.io/v2/", HUB),
        ("https://index.docker.io/v1", HUB),
        ("index.docker.io", HUB),
        ("docker.io", HUB),
        ("https://docker.io", HUB),
        ("registry-1.docker.io", HUB),
        ("docker.io/acme", HUB),
        ("https://index.docker.io/v1/acme", HUB),
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://ghcr.io/", "ghcr.io"),
        ("http://ghcr.io", "ghcr.io"),
        ("GHCR.io", "ghcr.io"),
        ("ghcr.io:443", "ghcr.io"),
        ("ghcr.io/v1/", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("ghcr.io/acme", "ghcr.io"),
        ("https://ghcr.io/acme/", "ghcr.io"),
        ("ghcr.io/acme/iris", "ghcr.io"),
        ("ghcr.io/v2/acme", "ghcr.io"),
        ("r.example.com:5000", "r.example.com:5000"),
        ("https://r.example.com:5000/v1/", "r.example.com:5000"),
        ("*.example.com", "r.example.com"),
        ("https://*.example.com", "r.example.com"),
        ("r.*.com", "r.example.com"),
        ("*.*.com", "r.example.com"),
        ("r-*.example.com", "r-eu.example.com"),
        ("*.example.com/acme", "r.example.com"),
        ("*.example.com:5000", "r.example.com:5000"),
        ("localhost:5000", "localhost:5000"),
        ("registry:5000", "registry:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
    ],
)
def test_a_key_is_for_a_registry(tmp_path: Path, key: str, registry: str) -> None:
    assert found(tmp_path, {key: ENTRY}, registry, "acme/iris") == ["user"]


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("ghcr.io", HUB),
        ("quay.io", "ghcr.io"),
        ("io", "ghcr.io"),
        ("hcr.io", "ghcr.io"),
        ("ghcr.io.evil.example", "ghcr.io"),
        ("https://ghcr.io@evil.example", "ghcr.io"),
        ("ghcr.io:5000", "ghcr.io"),
        ("r.example.com", "r.example.com:5000"),
        ("*.example.com", "example.com"),
        ("*.example.com", "a.b.example.com"),
        ("*.example.com", "r.example.com:5000"),
        ("*", "ghcr.io"),
        ("*.com", "r.example.com"),
        ("*.docker.io", HUB),
        ("ghcr.io/acme/other", "ghcr.io"),
        ("ghcr.io/acm", "ghcr.io"),
        ("ghcr.io/acme/iris/v2", "ghcr.io"),
        ("ghcr.io/*", "ghcr.io"),
        ("https://[::1", "[::1]"),
        ("https://ghcr.io:port", "ghcr.io"),
        ("", "ghcr.io"),
    ],
)
@pytest.mark.attack(35)
def test_a_key_is_not_for_another_registry(tmp_path: Path, key: str, registry: str) -> None:
    assert found(tmp_path, {key: ENTRY}, registry, "acme/iris") == []


def test_the_most_specific_entry_is_tried_first_then_the_others(tmp_path: Path) -> None:
    keys = ("*.example.com", "r.example.com", "r.example.com/acme", "https://r.example.com/acme/iris", "s.example.com")
    auths = {key: {"username": str(number), "password": "x"} for number, key in enumerate(keys)}

    assert found(tmp_path, auths, "r.example.com", "acme/iris") == ["3", "2", "1", "0"]
    assert found(tmp_path, auths, "r.example.com", "acme/other") == ["2", "1", "0"]
    assert found(tmp_path, auths, "r.example.com", "else/iris") == ["1", "0"]


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        (ENTRY, LOGIN),
        ({"auth": auth("user:secret")}, LOGIN),
        ({"auth": auth("user:secret").rstrip("=")}, LOGIN),
        ({"auth": auth("user:se:cret")}, Login("user:se:cret")),
        ({"auth": auth("user:secret"), "username": "other", "password": "other"}, LOGIN),
        ({"auth": auth("user:secret"), "email": "user@example.com"}, LOGIN),
        ({"username": "user"}, Login("user:")),
        ({"identitytoken": "renewable"}, Login(identity="renewable")),
        ({"auth": auth("00000000:"), "identitytoken": "renewable"}, Login("00000000:", "renewable")),
        ({"registrytoken": "granted"}, Login(bearer="granted")),
    ],
)
def test_an_entry_has_a_password_or_a_token(tmp_path: Path, entry: object, login: Login) -> None:
    mounted = docker_config(tmp_path, {"auths": {"ghcr.io": entry}})

    assert logins(mounted, "ghcr.io", "acme/iris") == [login]


@pytest.mark.parametrize("entry", [{}, {"email": "user@example.com"}, {"auth": "", "username": ""}, None])
def test_an_entry_whose_password_is_in_a_credential_helper_is_none(tmp_path: Path, entry: object) -> None:
    auths = {"ghcr.io/acme": entry, "ghcr.io": ENTRY}
    mounted = docker_config(tmp_path, {"auths": auths, "credsStore": "desktop"})

    assert logins(mounted, "ghcr.io", "acme/iris") == [LOGIN]
    assert logins(docker_config(tmp_path, {"credsStore": "desktop"}), "ghcr.io", "acme/iris") == []


@pytest.mark.parametrize(
    ("key", "content"), [(".dockercfg", {"ghcr.io": ENTRY}), ("config.json", {"auths": {"ghcr.io": ENTRY}})]
)
def test_the_older_type_of_secret_and_dockers_own_file_are_read(tmp_path: Path, key: str, content: object) -> None:
    assert logins(secret(tmp_path, {key: content}), "ghcr.io", "acme/iris") == [LOGIN]


def test_user_and_password_are_for_a_registry_without_an_entry(tmp_path: Path) -> None:
    mounted = secret(tmp_path, {"username": "user\n", "password": "secret\n"})
    assert logins(mounted, "ghcr.io", "acme/iris") == [LOGIN]

    mounted = docker_config(tmp_path, {"auths": {"ghcr.io": {"username": "other", "password": "x"}}})
    assert logins(mounted, "ghcr.io", "acme/iris") == [Login("other:x")]
    assert logins(mounted, "quay.io", "acme/iris") == [LOGIN]


@pytest.mark.parametrize(
    "config",
    ["", "{}", '{"auths": null}', '{"auths": {}}'],
)
def test_a_configuration_without_entries_has_no_credentials(tmp_path: Path, config: str) -> None:
    assert logins(docker_config(tmp_path, config), "ghcr.io", "acme/iris") == []


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "user:secret",
        '{"auths": ["ghcr.io"]}',
        '{"auths": {"ghcr.io": "user:secret"}}',
        "[" * 100_000,
        json.dumps({"auths": {"ghcr.io": {"auth": "user:secret"}}}),
        json.dumps({"auths": {"ghcr.io": {"auth": auth("secret")}}}),
        json.dumps({"auths": {"ghcr.io": {"auth": "é"}}}),
    ],
)
def test_a_malformed_configuration_is_an_invalid_source_and_not_repeated(tmp_path: Path, config: str) -> None:
    with pytest.raises(LoadError) as caught:
        logins(docker_config(tmp_path, config), "ghcr.io", "acme/iris")

    assert caught.value.code == "InvalidSource"
    assert "user:secret" not in caught.value.message


def test_a_malformed_entry_of_another_registry_is_no_obstacle(tmp_path: Path) -> None:
    mounted = docker_config(tmp_path, {"auths": {"ghcr.io": ENTRY, "quay.io": {"auth": "secret"}}})

    assert logins(mounted, "ghcr.io", "acme/iris") == [LOGIN]


def test_an_entry_names_a_token_service(tmp_path: Path) -> None:
    mounted = docker_config(tmp_path, {"auths": {"https://auth.example.com/v1/": {}, "*.example.org": {}}})

    assert names(mounted, "auth.example.com")
    assert names(mounted, "auth.example.org")
    assert not names(mounted, "auth.example.com:8443")
    assert not names(mounted, "example.org")
