"""Wrong lists of files, by accident or by intent: the load gives the right model, or a clear refusal."""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from model_loader.plan import model
from model_loader.sources import documents, pages
from support.loader_harness import Loader, Reply, Request, WebServer
from support.loader_hub import COMMIT

SEED = os.environ.get("KUBECTL_SERVE_SEED", "1")
BODIES = {"config.json": b"{}", "data/weights.bin": b"weights"}
Entry = tuple[str, object]
"""A file's name and size in the list."""


class Lister:
    """A store of one kind behind `web`. It serves the configured list, and `bodies` by name."""

    uri: str
    wrong: tuple[str, ...] = ("ServerError",)
    """The end of a malformed list."""

    def __init__(self, load: Loader, web: WebServer) -> None:
        self.web = web
        self.bodies = dict(BODIES)
        self.credentials(load)

    def credentials(self, load: Loader) -> None:
        raise NotImplementedError

    def is_list(self, request: Request) -> bool:
        raise NotImplementedError

    def page(self, entries: Sequence[Entry], following: str = "") -> bytes:
        raise NotImplementedError

    def body(self, request: Request) -> bytes | None:
        """Return the requested file."""
        name = unquote(urlsplit(request.path).path).partition("/m/")[2]
        return self.bodies.get(name)

    def serve(self, page: Callable[[Request], bytes]) -> None:
        def answer(request: Request, number: int) -> Reply:
            if self.is_list(request):
                return Reply(body=page(request))
            body = self.body(request)
            return Reply(404) if body is None else Reply(body=body)

        self.web.fault = answer

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.bodies.get(name, b"")).hexdigest()


class S3(Lister):
    uri = "s3://models/m"

    def credentials(self, load: Loader) -> None:
        load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=self.web.url)

    def is_list(self, request: Request) -> bool:
        return "list-type" in request.path

    def page(self, entries: Sequence[Entry], following: str = "") -> bytes:
        listed = "".join(
            f"<Contents><Key>{escape(f'm/{name}')}</Key><Size>{size}</Size></Contents>" for name, size in entries
        )
        token = f"<NextContinuationToken>{following}</NextContinuationToken>"
        return f"<ListBucketResult>{listed}{token}</ListBucketResult>".encode()


class Azure(Lister):
    uri = "az://models/m"

    def credentials(self, load: Loader) -> None:
        load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=self.web.url)

    def is_list(self, request: Request) -> bool:
        return "comp=list" in request.path

    def page(self, entries: Sequence[Entry], following: str = "") -> bytes:
        listed = "".join(
            f"<Blob><Name>{escape(f'm/{name}')}</Name>"
            f"<Properties><Content-Length>{size}</Content-Length></Properties></Blob>"
            for name, size in entries
        )
        marker = f"<NextMarker>{following}</NextMarker>"
        return f"<EnumerationResults><Blobs>{listed}</Blobs>{marker}</EnumerationResults>".encode()


class Google(Lister):
    uri = "gs://models/m"

    def credentials(self, load: Loader) -> None:
        load.credentials(GS_ENDPOINT_URL=self.web.url, token="t")

    def is_list(self, request: Request) -> bool:
        return "prefix=" in request.path

    def page(self, entries: Sequence[Entry], following: str = "") -> bytes:
        items = [{"name": f"m/{name}", "size": size, "generation": "1"} for name, size in entries]
        return json.dumps({"items": items, "nextPageToken": following}).encode()

    def body(self, request: Request) -> bytes | None:
        return self.bodies.get(unquote(urlsplit(request.path).path).rpartition("/o/m/")[2])


class HubOfLists(Lister):
    uri = "hf://team/model"

    def credentials(self, load: Loader) -> None:
        load.credentials(HF_ENDPOINT=self.web.url)

    def is_list(self, request: Request) -> bool:
        return request.path.startswith("/api/")

    def page(self, entries: Sequence[Entry], following: str = "") -> bytes:
        siblings = [
            {"rfilename": name, "size": size, "lfs": {"sha256": self.sha256(name), "size": size}}
            for name, size in entries
        ]
        return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()

    def body(self, request: Request) -> bytes | None:
        return self.bodies.get(unquote(request.path).partition(f"/resolve/{COMMIT}/")[2])


class RegistryOfLists(Lister):
    wrong = ("ServerError", "Refused")

    @property
    def uri(self) -> str:  # type: ignore[override]
        return f"oci://{urlsplit(self.web.url).netloc}/team/model:v1"

    def credentials(self, load: Loader) -> None:
        load.credentials(**{"plain-http": "true"})

    def is_list(self, request: Request) -> bool:
        return request.method == "GET" and "/manifests/" in request.path

    def page(self, entries: Sequence[Entry], following: str = "") -> bytes:
        layers = [
            {
                "mediaType": "application/octet-stream",
                "digest": f"sha256:{self.sha256(name)}",
                "size": size,
                "annotations": {"org.opencontainers.image.title": name},
            }
            for name, size in entries
        ]
        return json.dumps({"config": {"mediaType": "application/json"}, "layers": layers}).encode()

    def body(self, request: Request) -> bytes | None:
        return next((body for name, body in self.bodies.items() if request.path.endswith(self.sha256(name))), None)


KINDS = (S3, Azure, Google, HubOfLists, RegistryOfLists)
PAGED = (S3, Azure, Google)
OF_JSON = (Google, HubOfLists, RegistryOfLists)
GOOD: list[Entry] = [(name, len(body)) for name, body in BODIES.items()]


@pytest.fixture
def lister(request: pytest.FixtureRequest, load: Loader, web: WebServer) -> Lister:
    made: Lister = request.param(load, web)
    return made


def every(*kinds: type[Lister]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lister", kinds, indirect=True, ids=[kind.__name__ for kind in kinds])


def run(load: Loader, lister: Lister) -> str:
    """Load, and return the code. There is nothing next to the volume, and no model without success."""
    before = {path.name for path in load.volume.parent.iterdir()} | {"termination-log"}
    found = load(lister.uri, options=("--patience=0",))
    assert {path.name for path in load.volume.parent.iterdir()} == before
    assert {path.name for path in load.volume.iterdir()} <= {"state", "model"}
    if found.code == "Loaded":
        assert set(found.files().values()) <= set(lister.bodies.values())
    else:
        assert found.message["hint"]
        assert not (load.volume / "model").exists()
    return str(found.code)


@every(*KINDS)
def test_a_correct_list_is_a_model(load: Loader, lister: Lister) -> None:
    lister.serve(lambda request: lister.page(GOOD))

    assert run(load, lister) == "Loaded"
    assert load(lister.uri).files() == BODIES


@every(*KINDS)
@pytest.mark.parametrize(
    "names",
    [
        ["a/../../b"],
        ["/etc/passwd"],
        ["a//b"],
        ["./a"],
        ["a", "a/b"],
        ["a/b", "A"],
        ["a", "a"],
        ["Model", "model"],
        ["x" * 5000],
        ["a/" * 2500 + "b"],
        ["a\\..\\b"],
        ["a\u202eb"],
        ["a\tb"],
    ],
    ids=lambda names: ascii(names)[:20],
)
def test_names_that_a_folder_cannot_have_are_refused(load: Loader, lister: Lister, names: list[str]) -> None:
    lister.serve(lambda request: lister.page([*GOOD, *((name, 0) for name in names)]))

    assert run(load, lister) == "Refused"


@every(*OF_JSON)
@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\ud800", "\ud800/../b"], ids=ascii)
def test_names_that_only_json_can_express_are_refused(load: Loader, lister: Lister, name: str) -> None:
    lister.serve(lambda request: lister.page([*GOOD, (name, 0)]))

    assert run(load, lister) == "Refused"


@every(*KINDS)
@pytest.mark.parametrize("size", [-1, -(1 << 70), 1 << 70, "1e3", "٣", "0x10", 1.5, "1_000"], ids=ascii)
def test_an_invalid_size_is_an_error_of_the_store(load: Loader, lister: Lister, size: object) -> None:
    lister.serve(lambda request: lister.page([*GOOD, ("other", size)]))

    assert run(load, lister) == "ServerError"


@every(*KINDS)
@pytest.mark.parametrize(("size", "code"), [(1 << 60, "NoSpace"), (5, "Changed"), (9, "Changed")])
def test_a_wrong_size_is_reported(load: Loader, lister: Lister, size: int, code: str) -> None:
    lister.serve(lambda request: lister.page([("data/weights.bin", size)]))

    assert run(load, lister) == code


@every(*KINDS)
def test_a_size_that_changes_with_every_list_gives_no_model(load: Loader, lister: Lister) -> None:
    sizes = iter(range(10, 99))
    lister.serve(lambda request: lister.page([("data/weights.bin", next(sizes))]))

    assert run(load, lister) == "Changed"


@every(*PAGED)
@pytest.mark.parametrize("entries", [[], [("a", 1)]])
@pytest.mark.parametrize("same", [True, False])
def test_an_endless_list_is_an_error_of_the_store(
    load: Loader, lister: Lister, entries: list[Entry], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MAX_PAGES", 20)
    asked: list[str] = []

    def page(request: Request) -> bytes:
        asked.append(request.path)
        return lister.page(entries, "t" if same else f"t{len(asked)}")

    lister.serve(page)

    assert run(load, lister) == "ServerError"
    assert len(asked) == (2 if same else 20)


@every(*KINDS)
def test_too_many_files_are_refused(load: Loader, lister: Lister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_FILES", 50)
    count = 20 if isinstance(lister, PAGED) else 60
    asked: list[str] = []

    def page(request: Request) -> bytes:
        asked.append(request.path)
        return lister.page([(f"{len(asked)}-{number}", 0) for number in range(count)], f"t{len(asked)}")

    lister.serve(page)

    assert run(load, lister) == "Refused"
    assert len(asked) == (3 if isinstance(lister, PAGED) else 1)


@pytest.mark.slow
@every(S3, HubOfLists)
def test_a_hundred_thousand_files_are_planned(load: Loader, lister: Lister) -> None:
    """The volume is too small, so the loader reads none of them."""
    body = lister.page([(f"{number % 100}/{number}.bin", 1 << 40) for number in range(100_000)])
    lister.serve(lambda request: body)

    assert run(load, lister) == "NoSpace"


@every(S3, Google)
def test_files_outside_the_prefix_are_not_part_of_the_model(load: Loader, lister: Lister) -> None:
    lister.serve(lambda request: lister.page(GOOD).replace(b"m/config", b"other/config"))

    assert run(load, lister) == "ServerError"


@every(*KINDS)
@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"null", b'"x"', b"[" * 100_000, b"<a>" * 100_000, b'{"items": 1, "siblings": 1}']
)
def test_a_malformed_list_is_reported(load: Loader, lister: Lister, text: bytes) -> None:
    lister.serve(lambda request: text)

    assert run(load, lister) in (*lister.wrong, "NotFound")


@every(*KINDS)
def test_a_list_that_would_fill_the_memory_is_not_parsed(
    load: Loader, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even in parts that the loader ignores."""
    monkeypatch.setattr(documents, "_MAX_VALUES", 1000)
    good = lister.page(GOOD)
    full = (
        good.replace(b"</", b"<a/>" * 1000 + b"</", 1)
        if good[:1] == b"<"
        else b'{"a": [%s1],' % (b"1," * 1000) + good[1:]
    )
    lister.serve(lambda request: full)

    assert run(load, lister) == "ServerError"


@every(S3, Azure)
def test_a_list_that_expands_by_entities_is_an_error_of_the_store(load: Loader, lister: Lister) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    lister.serve(lambda request: f'<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]><a>&e9;</a>'.encode())

    assert run(load, lister) == "ServerError"


@pytest.mark.parametrize("digest", ["sha256:../../other", "sha256:", "sha256:" + "A" * 64, "v2", "md5:" + "0" * 32])
@pytest.mark.parametrize("where", ["layers", "manifests"])
def test_a_registrys_reference_is_a_digest_or_refused(load: Loader, web: WebServer, digest: str, where: str) -> None:
    """Another reference would be read without verification."""
    lister = RegistryOfLists(load, web)
    document = json.loads(lister.page(GOOD))
    if where == "layers":
        document["layers"][0]["digest"] = digest
    else:
        document = {"manifests": [{"digest": digest}]}
    lister.serve(lambda request: json.dumps(document).encode())

    assert run(load, lister) in ("Refused", "ServerError")
    assert not any("other" in request.path or request.path.endswith("/v2") for request in web.requests)


@pytest.mark.parametrize(("key", "value"), [("sha256", ""), ("sha256", "0"), ("sha256", None)])
def test_a_hub_without_checksums_is_not_taken_for_one_with(
    load: Loader, web: WebServer, key: str, value: object
) -> None:
    lister = HubOfLists(load, web)
    document = json.loads(lister.page(GOOD))
    document["siblings"][1]["lfs"][key] = value
    lister.serve(lambda request: json.dumps(document).encode())

    assert run(load, lister) == "ServerError"


def spoil(text: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(text)
    for _ in range(chance.choice([1, 1, 2])):
        at = chance.randrange(len(damaged) or 1)
        way = chance.randrange(5)
        if way == 0:
            del damaged[at : at + chance.choice([1, 5, 50])]
        elif way == 1:
            damaged[at:at] = chance.choice(
                [b"../", b"/", b"\\", b"-", b"9" * 30, b"&#1;", b"null", b"\xff", b"[{", b"'"]
            )
        elif way == 2:
            damaged[at:at] = damaged[max(0, at - 40) : at]
        else:
            damaged[at : at + 1] = bytes([chance.randrange(32, 127)])
    return bytes(damaged)


@every(*KINDS)
def test_a_damaged_list_gives_existing_files_or_none(
    load: Loader, lister: Lister, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = Counter[str]()
    good = lister.page(GOOD)
    for number in range(60):
        chance = random.Random(f"{SEED} {number}")
        text = spoil(good, chance)
        lister.serve(lambda request, text=text: text)  # type: ignore[misc]
        code = run(load, lister)
        assert code in ("Loaded", "ServerError", "Refused", "NotFound", "Changed", "NoSpace", "Corrupted"), text
        ended[code] += 1
        for path in load.volume.iterdir():
            shutil.rmtree(path)
    with capsys.disabled():
        print(f"\n{type(lister).__name__}: {ended.total()} damaged lists: {dict(ended)}")
