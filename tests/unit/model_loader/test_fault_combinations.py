"""Random faults over sources, models and kinds of verification: the load gives the right model, or none and the cause.

A failure prints its seed, which repeats the case; `KUBECTL_SERVE_SEED` selects other cases.
"""

import hashlib
import itertools
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from model_loader.download import concurrency, file_state, retries, scheduler
from model_loader.http import transport
from model_loader.verify.signatures import NAME as SIGNATURE
from support import loader_faults as faults
from support import loader_harness as harness
from support.loader_harness import (
    Loader,
    Registry,
    Reply,
    Request,
    Run,
    Store,
    WebServer,
    forward,
    layer,
    manifest_digest,
)
from support.loader_hub import Hub
from support.loader_signing import Key

pytestmark = pytest.mark.slow

SEED = os.environ.get("KUBECTL_SERVE_SEED", "1")
FOR_EVER = 1 << 20
PART = 64 << 10
SHAPES: Mapping[str, tuple[int, ...]] = {
    "one large file": (60 * PART + 17,),
    "large files": (24 * PART, 24 * PART + 1, 23 * PART, 0),
    "a large file among small ones": (40 * PART + 1, *range(1000, 1012)),
    "small files": tuple(range(30)),
}
"""The sizes of the files. A single large file is hashed by a separate thread."""
WAYS = {"hashed": "", "not hashed": "", "digest": "DigestMismatch", "signature": "NotSigned"}
"""The kinds of verification in addition to the store's checksums, and the outcome for another model."""
FAULTS = faults.FAULTS | {"stall at half": faults.Fault(faults.stall_at_half, "Stalled")}
UNREADABLE = {
    "truncated": {"ServerError", "Corrupted"},
    "corrupted": {"ServerError", "NotFound", "Changed", "Corrupted", "Refused", "InvalidSource"},
}
"""The other possible outcomes if the response is a list of files instead of a file."""

Model = Mapping[str, bytes]
Honest = Callable[[Request], Reply]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small parts, increase the number of workers at once, and shorten all delays."""
    monkeypatch.setattr(file_state, "PART_BYTES", PART)
    monkeypatch.setattr(scheduler, "READ_AHEAD_BYTES", 32 * PART)
    monkeypatch.setattr(concurrency, "SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr(concurrency, "_MAX_CPU", 100)
    monkeypatch.setattr(retries, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(retries, "_LONGEST_WAIT", 0.05)


@dataclass(frozen=True)
class Servers:
    """The servers behind the sources."""

    store: Store
    registry: Registry
    network: WebServer
    folder: Path
    """For temporary files."""
    name: str
    """The key of the model's owner."""


class Source:
    """A server with a model, behind `front`, which can inject faults."""

    checks = True
    """Whether every file has a known checksum."""
    folders: tuple[str, ...] = ("", "deep/")
    """The path of the model's files."""

    def __init__(self, front: WebServer, load: Loader, servers: Servers) -> None:
        self.front = front
        self.servers = servers
        self.prepare(load)

    def prepare(self, load: Loader) -> None:
        """Create the Secret."""

    def publish(self, model: Model) -> None:
        """Replace the model."""
        raise NotImplementedError

    def uris(self, model: Model) -> list[str]:
        """Return the loader's arguments."""
        raise NotImplementedError

    def digest(self, model: Model) -> str:
        """Return the model's digest."""
        return manifest_digest(model)

    def fronts(self) -> list[tuple[WebServer, Honest]]:
        """Return the servers, each with its correct answers."""
        raise NotImplementedError

    def is_file(self, request: Request) -> bool:
        """Return whether a request is for a file of the model, and not for a list or the like."""
        raise NotImplementedError


class Web(Source):
    """A file server, with one URL for each file."""

    checks = False
    folders = ("",)

    def publish(self, model: Model) -> None:
        self.front.files = {f"/m/{path}": body for path, body in model.items()}

    def uris(self, model: Model) -> list[str]:
        if model.keys() <= {"0.bin", SIGNATURE}:
            return [f"{self.front.url}/m/0.bin"]
        return [f"{self.front.url}/m/{path}=." for path in model]

    def digest(self, model: Model) -> str:
        return f"sha256:{hashlib.sha256(model['0.bin']).hexdigest()}" if len(model) == 1 else manifest_digest(model)

    def fronts(self) -> list[tuple[WebServer, Honest]]:
        return [(self.front, self.front.answer)]

    def is_file(self, request: Request) -> bool:
        return True


class Bucket(Source):
    """versitygw, which keeps the checksums of uploads."""

    def prepare(self, load: Loader) -> None:
        load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=self.front.url)

    def publish(self, model: Model) -> None:
        for (path, body), algorithm in zip(model.items(), itertools.cycle(["sha256", "crc32", "crc64nvme"])):
            self.servers.store.upload(f"models/{self.servers.name}/{path}", body, algorithm)

    def uris(self, model: Model) -> list[str]:
        return [f"s3://models/{self.servers.name}"]

    def fronts(self) -> list[tuple[WebServer, Honest]]:
        return [(self.front, forward(urlsplit(self.servers.store.endpoint).netloc))]

    def is_file(self, request: Request) -> bool:
        return "list-type" not in request.path


class Repository(Source):
    """A repository of a Hugging Face hub, and its content network: both can fail."""

    def prepare(self, load: Loader) -> None:
        load.credentials(HF_ENDPOINT=self.front.url)
        self.hub = Hub(self.front, self.servers.network, {}, {})
        self.answer = self.front.fault

    def publish(self, model: Model) -> None:
        large = {path: body for path, body in model.items() if len(body) > PART}
        self.hub.push({path: body for path, body in model.items() if path not in large}, large)

    def uris(self, model: Model) -> list[str]:
        return ["hf://team/model"]

    def fronts(self) -> list[tuple[WebServer, Honest]]:
        return [
            (self.front, lambda request: self.answer(request, 0) or self.front.answer(request)),
            (self.servers.network, self.servers.network.answer),
        ]

    def is_file(self, request: Request) -> bool:
        return not request.path.startswith("/api/")


class Artifact(Source):
    """An artifact in go-containerregistry's registry."""

    def prepare(self, load: Loader) -> None:
        load.credentials(**{"plain-http": "true"})

    def publish(self, model: Model) -> None:
        self.servers.registry.push_artifact(self.servers.name, "v1", model)

    def uris(self, model: Model) -> list[str]:
        return [f"oci://{urlsplit(self.front.url).netloc}/{self.servers.name}:v1"]

    def fronts(self) -> list[tuple[WebServer, Honest]]:
        return [(self.front, forward(self.servers.registry.host))]

    def is_file(self, request: Request) -> bool:
        return "/blobs/" in request.path


class Image(Artifact):
    """An image there, with the model in a layer."""

    def publish(self, model: Model) -> None:
        tar = layer(self.servers.folder / "layer.tar.gz", {f"models/{path}": body for path, body in model.items()})
        self.servers.registry.push_image(f"{self.servers.name}:v1", tar)


@dataclass(frozen=True)
class Trouble:
    """The faults of one load."""

    faults: tuple[tuple[str, int, int], ...]
    """Each fault's name, first request, and number of requests."""
    replaced: int
    """The request before which another model replaces the first; 0: never."""
    signed: bool
    """Whether the second model is signed."""
    late: float
    """Seconds of refused connections at first."""
    slow: bool
    """Whether responses arrive slowly, so that the number of workers grows."""

    @classmethod
    def draw(cls, chance: random.Random) -> "Trouble":
        return cls(
            faults=tuple(
                (chance.choice(sorted(FAULTS)), chance.randint(1, 12), chance.choice([1, 1, 2, 3, FOR_EVER]))
                for _ in range(chance.choice([0, 1, 1, 2, 3]))
            ),
            replaced=chance.randint(2, 8) if chance.random() < 0.3 else 0,
            signed=chance.random() < 0.5,
            late=0.15 if chance.random() < 0.15 else 0.0,
            slow=chance.random() < 0.4,
        )


@dataclass
class Tally:
    """The faults in the loads of one source, and the outcomes."""

    ended: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    """Responses, by fault."""
    many: int = 0
    """Damaged responses for more than one part."""
    beside: int = 0
    """Damaged responses for a file that a separate thread hashed."""
    replaced: int = 0
    late: int = 0
    at_once: int = 0
    """Maximum number of responses."""

    def __str__(self) -> str:
        return (
            f"{self.ended.total()} loads ended as {dict(self.ended)}; {self.late} of the servers came up late, "
            f"{self.replaced} of the models were overwritten; {self.damaged.total()} responses were damaged, "
            f"{self.many} of them of many parts and {self.beside} of a file with a hash thread: {dict(self.damaged)}; "
            f"at most {self.at_once} answers at once"
        )


class Troubled:
    """Injects faults into the responses of a source, and records the outcomes that each allows."""

    def __init__(
        self, load: Loader, source: Source, trouble: Trouble, *, way: str, shape: str, other: Model, tally: Tally
    ) -> None:
        self.causes: set[str] = {"Unreachable"} if trouble.late else set()
        self.replaced = self.too_early = False
        self._load = load
        self._source = source
        self._trouble = trouble
        self._suspect = {WAYS[way]} - {""}
        self._beside = shape == "one large file" and way != "not hashed"
        self._tally = tally
        self._other = other
        self._requests = itertools.count(1)
        self._lock = threading.Lock()
        self._over = False
        self._open = 0
        for front, honest in source.fronts():
            front.fault = self._answers(honest)

    def end(self) -> None:
        """Stop injecting faults."""
        with self._lock:
            self._over = True

    def _answers(self, honest: Honest) -> Callable[[Request, int], Reply]:
        def answer(request: Request, _: int) -> Reply:
            with self._lock:
                if self._over:
                    return honest(request)
                self.too_early |= (self._load.volume / "model").exists()
                number = next(self._requests)
                if number == self._trouble.replaced:
                    self._source.publish(self._other)
                    self.replaced = True
                    self.causes |= {"Changed"} | self._suspect
                reply = honest(request)
                fault = FAULTS.get(self._due(number, request, reply))
                if fault and (heard := fault.hear(request)) != request:
                    reply = honest(heard)
            if self._trouble.slow:
                reply = replace(reply, pieces=self._by_and_by)
            return fault.spoil(reply) if fault else reply

        return answer

    def _due(self, number: int, request: Request, reply: Reply) -> str:
        """Return the fault of this response, if any."""
        due = [name for name, first, count in self._trouble.faults if first <= number < first + count]
        if not due or reply.status >= 300 or (due[0] in UNREADABLE and not reply.body):
            return ""
        if due[0] == "whole instead of a part" and "Range" not in request.headers:
            return ""
        causes, file = {FAULTS[due[0]].lasting}, self._source.is_file(request)
        if due[0] in UNREADABLE:
            if not self._suspect and not (self._source.checks and (file or due[0] == "truncated")):
                return ""  # indistinguishable from another model
            causes |= self._suspect
        self.causes |= causes if file else causes | UNREADABLE.get(due[0], set())
        self._tally.damaged[due[0]] += 1
        if len(reply.body) > PART:
            self._tally.many += 1
            self._tally.beside += self._beside
        return due[0]

    def _by_and_by(self, body: bytes) -> Iterator[bytes]:
        with self._lock:
            self._open += 1
            self._tally.at_once = max(self._open, self._tally.at_once)
        try:
            for start in range(0, len(body), PART):
                threading.Event().wait(0.004)
                yield body[start : start + PART]
        finally:
            with self._lock:
                self._open -= 1


def models(
    sizes: Mapping[str, int], chance: random.Random, folder: Path, key: Key | None, *, signed: bool
) -> tuple[Model, Model]:
    """Return two models of these files, signed if there is a key; without `signed`, the second has the first's
    signature.
    """
    found: list[dict[str, bytes]] = []
    for version in range(2):
        model = {path: chance.randbytes(size) for path, size in sizes.items()}
        if key is not None and (signed or not found):
            root = folder / str(version)
            for path, body in model.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(body)
            key.sign(root)
            model[SIGNATURE] = (root / SIGNATURE).read_bytes()
        elif key is not None:
            model[SIGNATURE] = found[0][SIGNATURE]
        found.append(model)
    return found[0], found[1]


def check_none(run: Run, causes: set[str]) -> None:
    """There is no model for the server, and the reported cause is an injected one."""
    assert run.code in causes, run.output
    assert run.message["hint"]
    assert not (run.volume / "model").exists()
    if run.code in ("DigestMismatch", "NotSigned"):
        assert not (run.volume / "state" / "files").exists()


def check(
    make: type[Source], shape: str, way: str, chance: random.Random, servers: Servers, key: Key, tally: Tally
) -> None:
    """Load one model from a failing source and, if that fails, once more without faults."""
    trouble = Trouble.draw(chance)
    names = (f"{folder}{n}.bin" for n, folder in enumerate(itertools.cycle(make.folders)))
    signer = key if way == "signature" else None
    sizes = dict(zip(names, SHAPES[shape], strict=False))
    first, second = models(sizes, chance, servers.folder, signer, signed=trouble.signed)
    load, front = Loader(servers.folder), WebServer(listening=False)
    source = make(front, load, servers)
    source.publish(first)
    options = {
        "hashed": (),
        "not hashed": ("--no-digest",),
        "digest": (f"--digest={source.digest(first)}",),
        "signature": (f"--signature-key={key.public}",),
    }[way]
    stalling = any(FAULTS[name].lasting == "Stalled" for name, _, _ in trouble.faults)
    troubled = Troubled(load, source, trouble, way=way, shape=shape, other=second, tally=tally)
    opening = threading.Timer(trouble.late, front.listen)
    opening.start()
    with pytest.MonkeyPatch.context() as patch:
        if stalling:
            troubled.causes.add("Stalled")  # a busy machine can stall for as long
            patch.setattr(transport, "READ_SECONDS", 0.2)
        run = load(*source.uris(first), options=("--patience=0.6", *options))
    opening.join()
    troubled.end()
    assert not troubled.too_early
    right = [first]
    if troubled.replaced and (way != "digest") and (way != "signature" or trouble.signed):
        right.append(second)
    if run.code == "Loaded":
        assert run.files() in right
        if way in ("hashed", "digest"):
            assert run.message["digest"] == source.digest(run.files())
    else:
        check_none(run, troubled.causes)
        again = load(*source.uris(first), options=options)
        if not troubled.replaced or second in right:
            assert (again.code, again.files()) == ("Loaded", right[-1]), again.output
        else:
            check_none(again, {WAYS[way]})
    front.close()
    tally.ended[str(run.code)] += 1
    tally.late += bool(trouble.late)
    tally.replaced += troubled.replaced


@pytest.mark.parametrize("make", [Web, Bucket, Repository, Artifact, Image])
def test_faults_give_the_right_model_or_none_and_the_cause(
    make: type[Source], keeping: Store, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally, key, network = Tally(), Key(tmp_path / "key"), WebServer()
    for number, (shape, way) in enumerate(itertools.product(SHAPES, WAYS)):
        name = f"{make.__name__.lower()}-{number}"
        folder = tmp_path / name
        folder.mkdir()
        seed = f"{SEED} {name}"
        try:
            check(make, shape, way, random.Random(seed), Servers(keeping, registry, network, folder, name), key, tally)
        except AssertionError as failure:
            failure.add_note(f"seed {seed!r}: {shape}, {way}, {Trouble.draw(random.Random(seed))}")
            raise
        shutil.rmtree(folder)
    network.close()
    with capsys.disabled():
        print(f"\n{make.__name__}: {tally}")
    assert tally.ended["Loaded"] > 0
    assert tally.ended.total() > tally.ended["Loaded"]
    assert tally.many > 0
