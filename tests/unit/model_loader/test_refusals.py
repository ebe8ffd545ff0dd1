"""What the loader refuses: addresses, names, and credentials in URIs."""

import ipaddress
import socket
import tracemalloc

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from model_loader.http.network import Network
from model_loader.outcomes import LoadError
from model_loader.plan.paths import check_clashes, safe_path
from support.loader_harness import Loader, Reply, WebServer

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "169.254.170.23",
        "168.63.129.16",
        "100.100.100.200",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "224.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd20:ce::254",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "2001:0:808:808::1",
        "2001:2::1",
        "2001:20::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "::169.254.169.254",
        "::10.0.0.1",
        "::ffff:0:10.0.0.1",
        "fe80::1%1",
        "2a00::1%1",
        "192.0.0.192",
        "192.88.99.1",
        "198.18.0.1",
        "192.0.2.1",
        "203.0.113.9",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "fec0::1",
        "ff02::1",
    ],
)
@pytest.mark.attack(14)
def test_a_private_address_is_refused(address: str) -> None:
    assert not Network().allows(ipaddress.ip_address(address), plain=False)


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.1.1", "fd12::1", "::ffff:10.1.2.3"])
def test_an_operator_can_allow_private_networks_and_plain_http_in_them(address: str) -> None:
    assert Network.of(PRIVATE).allows(ipaddress.ip_address(address), plain=True)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert Network().allows(ipaddress.ip_address(address), plain=False)


@pytest.mark.parametrize(
    "address",
    ["64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "fd00::5efe:a9fe:a9fe", "::a9fe:a9fe", "::ffff:0:a9fe:a9fe"],
)
@pytest.mark.attack(14)
def test_an_allowed_network_does_not_open_metadata_behind_a_translator(address: str) -> None:
    wide = Network.of(("::/0", "169.254.0.0/16"))

    assert not wide.allows(ipaddress.ip_address(address), plain=False)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "fd00:ec2::254", "168.63.129.16", "fd20:ce::254", "100.100.100.200", "192.0.0.192",
        "169.254.170.2", "fe80::a9fe:a9fe",
    ],
)  # fmt: skip
@pytest.mark.attack(14)
def test_only_its_exact_address_opens_a_metadata_service(address: str) -> None:
    wide = Network.of((*PRIVATE, "169.254.0.0/16", "168.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "fe80::/10"))

    assert not wide.allows(ipaddress.ip_address(address), plain=True)
    assert Network.of([address]).allows(ipaddress.ip_address(address), plain=True)


def test_plain_http_to_a_public_address_is_refused() -> None:
    public = ipaddress.ip_address("1.1.1.1")

    assert Network().allows(public, plain=False)
    assert not Network.of(PRIVATE).allows(public, plain=True)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1/model.bin",
        "http://[::1]:1/model.bin",
        "http://localhost:1/model.bin",
        "http://0x7f.1:1/model.bin",
        "http://2130706433:1/model.bin",
        "https://169.254.169.254/model.bin",
        "http://1.1.1.1/model.bin",
        "https://user:password@127.0.0.1/model.bin",
    ],
)
@pytest.mark.attack(14, 15)
def test_a_uri_with_a_refused_address_causes_no_connection(load: Loader, uri: str) -> None:
    run = load(uri, network=None)

    assert (run.code, run.exit_code, run.of("retry")) == ("Refused", 14, [])
    assert "password" not in run.output
    assert run.message["hint"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\u202eb",
        "\ud800",
        "x" * 256,
        "ü" * 128,
    ],
)
@pytest.mark.attack(16)
def test_an_unsafe_name_is_refused(name: str) -> None:
    with pytest.raises(LoadError) as caught:
        safe_path(name)
    assert caught.value.code == "Refused"


@given(st.text())
def test_an_accepted_name_stays_inside_the_model(name: str) -> None:
    try:
        segments = safe_path(name).split("/")
    except LoadError:
        return
    assert all(segment not in ("", ".", "..") and len(segment.encode()) <= 255 for segment in segments)


@pytest.mark.parametrize(
    "names",
    [("Model", "model"), ("é", "e\u0301"), ("ß", "SS"), ("a", "a/b"), ("a/b", "A"), ("x", "x")],
)
def test_names_that_clash_on_some_file_system_are_refused(names: tuple[str, str]) -> None:
    for pair in (names, names[::-1]):
        with pytest.raises(LoadError):
            check_clashes(pair)


def test_the_message_names_the_clashing_names() -> None:
    with pytest.raises(LoadError, match="'a' is a file and also the folder of 'A/b'"):
        check_clashes(["A/b", "z", "a"])
    with pytest.raises(LoadError, match="'Z' differs from 'z' only by case"):
        check_clashes(["z", "a", "Z"])


def test_names_in_many_folders_need_little_memory() -> None:
    names = [f"{number:04}/" + "a/" * 1900 + "b" for number in range(50)]
    tracemalloc.start()
    try:
        check_clashes(names)
        assert tracemalloc.get_traced_memory()[1] < 4 * sum(map(len, names))
    finally:
        tracemalloc.stop()


def test_names_that_only_look_alike_are_accepted() -> None:
    check_clashes(["a/b", "a/c", "ab", "b/a", "a.b"])


@pytest.mark.parametrize(
    "keys",
    [
        ["m/../../etc/passwd"],
        ["m//etc/passwd"],
        ["m/./a"],
        ["m/a\\b"],
        [f"m/{'a' * 256}"],
        ["m/Model", "m/model"],
        ["m/é", "m/e\u0301"],
        ["m/a", "m/a/b"],
    ],
)
def test_objects_that_no_folder_can_have_are_refused_before_the_download(
    load: Loader, web: WebServer, keys: list[str]
) -> None:
    entries = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in ["m/good", *keys])
    web.fault = lambda request, number: Reply(body=f"<ListBucketResult>{entries}</ListBucketResult>".encode())
    load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)

    run = load("s3://models/m")

    assert (run.code, run.exit_code) == ("Refused", 14)
    assert len(web.requests) == 1
    assert run.files() == {}


@pytest.mark.attack(14)
def test_the_loader_connects_to_the_address_that_it_checked(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to another address later (DNS rebinding) has no effect."""
    port = int(web.url.rpartition(":")[2])
    asked: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) % 2 else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    with Network.of(["127.0.0.0/8"]).connect("store.example.com", port, plain=True, timeout=5) as sock:
        assert (sock.getpeername(), asked) == (("127.0.0.1", port), ["store.example.com"])
    with pytest.raises(LoadError, match=r"169\.254\.169\.254"):
        Network.of(["127.0.0.0/8"]).connect("store.example.com", port, plain=True, timeout=5)


@pytest.mark.attack(14)
def test_of_several_addresses_only_the_allowed_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ("169.254.169.254", "10.1.2.3", "1.1.1.1")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    assert Network().resolve("store.example.com", 443, plain=False) == [(socket.AF_INET, "1.1.1.1")]


def test_an_untrusted_certificate_is_refused_unless_the_secret_has_its_authority(load: Loader, web: WebServer) -> None:
    authority = trustme.CA()
    web.secure(authority.issue_cert("127.0.0.1"))
    web.files["/model.bin"] = b"weights"

    stranger = load(f"{web.url}/model.bin")
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()})
    known = load(f"{web.url}/model.bin")

    assert (stranger.code, "not trusted" in str(stranger.message["message"])) == ("Refused", True)
    assert known.files() == {"model.bin": b"weights"}


@pytest.mark.attack(14)
def test_https_never_becomes_http(load: Loader, web: WebServer) -> None:
    authority = trustme.CA()
    web.secure(authority.issue_cert("127.0.0.1"))
    web.fault = lambda request, number: Reply(302, {"Location": "http://127.0.0.1:1/model.bin"})
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()})

    assert load(f"{web.url}/model.bin").code == "Refused"
