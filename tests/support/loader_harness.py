"""Real servers on loopback for the loader, and a way to run it."""

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
import trustme

from model_loader.__main__ import main
from model_loader.sources import s3
from model_loader.sources.aws_identity import Keys
from model_loader.verify import checksums
from support.paths import ROOT

LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True)
class Run:
    """The results of one run of the loader."""

    exit_code: int
    events: list[dict[str, object]]
    message: dict[str, object]
    volume: Path
    output: str

    @property
    def code(self) -> object:
        """The code of the termination message."""
        return self.message["code"]

    def files(self) -> dict[str, bytes]:
        """Return the files that the model server would see."""
        return contents(self.volume / "model")

    def of(self, event: str) -> list[dict[str, object]]:
        """Return the lines of one kind."""
        return [line for line in self.events if line["event"] == event]


def manifest_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest of a folder with these files, as documented."""
    lines = "".join(f"{hashlib.sha256(body).hexdigest()}  {path}\n" for path, body in sorted(files.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` by its relative path; empty without a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Loader:
    """Runs the loader on one volume, in this process."""

    def __init__(self, root: Path) -> None:
        self.volume = root / "volume"
        self.volume.mkdir()
        self.log = root / "termination-log"
        self.secret = root / "secret"

    def credentials(self, **keys: str) -> None:
        """Create the mounted Secret."""
        self.secret.mkdir(exist_ok=True)
        for key, value in keys.items():
            draft = self.secret / f".{key}.{threading.get_ident()}"
            draft.write_text(value)
            draft.rename(self.secret / key)  # like the kubelet: never half a value

    def arguments(self, *uris: str, options: tuple[str, ...] = (), network: str | None = LOOPBACK) -> list[str]:
        """Return the command line for `uris`."""
        credentials = ["--credentials", str(self.secret)] if self.secret.exists() else []
        allowed = ["--allow-network", network] if network else []
        volume = ["--volume", str(self.volume), "--termination-log", str(self.log)]
        return [*volume, *credentials, *allowed, "--patience=3", *options, "--", *uris]

    def message(self) -> dict[str, object]:
        """Return the termination message of the last run."""
        found: dict[str, object] = json.loads(self.log.read_text())
        return found

    def __call__(
        self,
        *uris: str,
        options: tuple[str, ...] = (),
        network: str | None = LOOPBACK,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """Run once."""
        out, err = io.StringIO(), io.StringIO()
        exit_code = main(self.arguments(*uris, options=options, network=network), environment or {}, out, err)
        events = [json.loads(line) for line in out.getvalue().splitlines()]
        return Run(
            exit_code, events, self.message(), self.volume, out.getvalue() + err.getvalue() + self.log.read_text()
        )


@dataclass
class Request:
    """One request as a test server received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def form(self) -> dict[str, str]:
        """The fields of the form in the body."""
        return dict(parse_qsl(self.body.decode()))


@dataclass
class Reply:
    """The response of a test server. `cut`: bytes of the body after which the connection is closed."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    pieces: Callable[[bytes], Iterable[bytes]] = lambda body: [body]
    """Yields the pieces of the body to send."""


class WebServer:
    """A file server with ranges and ETags that can inject faults.

    `files` are served by path. `fault` sees every request first and can return a response.
    """

    def __init__(self, *, listening: bool = True) -> None:
        """Without `listening`, connections are refused until `listen` is called."""
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.fault: Callable[[Request, int], Reply | None] = lambda request, number: None
        self.ranges = True
        owner = self
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # otherwise each short body waits 40 ms for the acknowledgment of its head

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                with lock:
                    owner.requests.append(request := Request(self.command, self.path, dict(self.headers), body))
                    number = len(owner.requests)
                reply = owner.fault(request, number) or owner.answer(request)
                self.send_response(reply.status)
                for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    with contextlib.suppress(ConnectionError):
                        for piece in reply.pieces(reply.body[: reply.cut]):
                            self.wfile.write(piece)
                if reply.cut is not None:
                    self.close_connection = True

            do_HEAD = do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128  # otherwise many simultaneous connections wait for a second

            def handle_error(self, *_: object) -> None:
                pass  # some tests close connections on purpose

        self.server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server.server_bind()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        if listening:
            self.listen()

    def listen(self) -> None:
        """Accept connections from now on."""
        self.server.server_activate()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def secure(self, certificate: trustme.LeafCert) -> None:
        """Use TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        # The connection's thread does the handshake: a client that gives up must not block the others.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = self.url.replace("http://", "https://")

    def etag(self, body: bytes) -> str:
        """Return the ETag of a file."""
        return f'"{hash(body)}"'

    def answer(self, request: Request) -> Reply:
        """Return a correct response."""
        body = self.files.get(unquote(request.path.partition("?")[0]))
        if body is None:
            return Reply(404)
        etag = self.etag(body)
        if request.headers.get("If-Match", etag) != etag:
            return Reply(412)
        wanted = request.headers.get("Range", "")
        if not wanted or not self.ranges:
            return Reply(200, {"ETag": etag}, body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= len(body):
            return Reply(416)
        part = body[int(first) : int(last) + 1]
        content_range = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        return Reply(206, {"ETag": etag, "Content-Range": content_range}, part)

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()


def listing(*keys: str, size: int) -> bytes:
    """Return S3's list of the objects of a bucket."""
    entries = "".join(f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>" for key in keys)
    return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entries}</ListBucketResult>'.encode()


def forward(address: str) -> Callable[[Request], Reply]:
    """Return a function that forwards requests to the server at `address`."""

    def ask(request: Request) -> Reply:
        with contextlib.closing(http.client.HTTPConnection(address)) as connection:
            connection.request(request.method, request.path, request.body or None, request.headers)
            answer = connection.getresponse()
            headers = {name.title(): value for name, value in answer.getheaders()}
            body = answer.read()
        if request.method != "HEAD":
            del headers["Content-Length"]  # the length may change
        return Reply(answer.status, headers, body)

    return ask


def cache() -> Path:
    """Return the folder for builds of the project's tools."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "kubectl-serve"


def versitygw() -> Path:
    """Return the S3 gateway's program: from PATH, or built once from its locked module."""
    found = shutil.which("versitygw")
    program = Path(found) if found else cache() / "tests" / "versitygw"
    if not program.exists():
        module = ROOT / "scripts" / "localcluster" / "modules" / "versitygw"
        program.parent.mkdir(parents=True, exist_ok=True)
        draft = program.with_name(f"versitygw.{os.getpid()}")
        package = "github.com/versity/versitygw/cmd/versitygw"
        command = ["go", "build", "-mod=readonly", "-trimpath", "-o", str(draft), package]
        subprocess.run(command, cwd=module, check=True, env=os.environ | {"CGO_ENABLED": "0"})
        draft.rename(program)
    return program


@dataclass(frozen=True)
class Store:
    """A running S3 store that serves `folder`: its buckets are the folders in it."""

    endpoint: str
    folder: Path
    pid: int

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Put objects, by key."""
        for key, body in objects.items():
            path = self.folder / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)

    def upload(self, path: str, body: bytes, algorithm: str) -> None:
        """Put an object, `bucket/key`, with a checksum, which the store verifies and keeps."""
        value = checksums.new(algorithm, len(body))
        value.update(body)
        headers = {f"x-amz-checksum-{algorithm}": base64.b64encode(bytes.fromhex(value.hexdigest())).decode()}
        keys = Keys(*KEYS.values())
        url = f"{self.endpoint}/{path}"
        with pytest.MonkeyPatch.context() as patch:
            # The loader signs only requests without a body.
            patch.setattr(s3, "_NOTHING", "UNSIGNED-PAYLOAD")
            s3.RequestSigner(lambda: keys, "us-east-1").sign("PUT", urlsplit(url), headers)
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT")) as answer:
            assert answer.headers[f"x-amz-checksum-{algorithm}"] == headers[f"x-amz-checksum-{algorithm}"]


KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}


@contextlib.contextmanager
def store(
    folder: Path,
    *,
    metadata: bool = False,
    address: str = "127.0.0.1",
    enter: Sequence[str] = (),
    certificate: Path | None = None,
    domain: str = "",
) -> Iterator[Store]:
    """Run versitygw on `address` during the block; with `metadata` it keeps checksums and ETags of uploads.

    `enter`: prefix of its command that runs it in another network namespace. `certificate`: a PEM file with certificate
    and key for TLS. `domain`: the bucket can be a label before it.
    """
    port = free_port()
    environment = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    options = [] if metadata else ["--nometa"]
    listen = ["--port", f"{address}:{port}", "--quiet", "--keep-alive"]
    if certificate is not None:
        listen += ["--cert", str(certificate), "--key", str(certificate)]
    if domain:
        listen += ["--virtual-domain", domain]
    command = [*enter, str(versitygw()), *listen, "posix", *options, str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_port(port, process)
        yield Store(f"http{'s' if certificate else ''}://{address}:{port}", folder, process.pid)
    finally:
        process.terminate()
        process.communicate()


def free_port() -> int:
    """Return an unused port of loopback."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        return int(server.server_address[1])


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    """Return when the process listens on `port` in its network namespace; raise when it ends instead."""
    listening = f":{port:04X} 00000000:0000 0A"
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} has ended: {process.communicate()[0]}")
        with contextlib.suppress(OSError):
            if listening in Path(f"/proc/{process.pid}/net/tcp").read_text():
                return
        threading.Event().wait(0.01)  # another process' socket needs polling


def unused_address() -> str:
    """Return host:port of loopback that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def go_program(name: str, package: str) -> Path:
    """Return a Go program from its pinned package, built once into the cache."""
    program = cache() / "tests" / name
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"GOBIN": str(program.parent), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
        subprocess.run(["go", "install", package], check=True, env=environment)
    return program


CRANE = "github.com/google/go-containerregistry/cmd/crane@v0.20.6"


@dataclass(frozen=True)
class Azurite:
    """A running Azurite, Microsoft's emulator of Blob Storage, with the account `devstoreaccount1`."""

    endpoint: str
    key: str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    """Documented, and the same everywhere."""


@contextlib.contextmanager
def azurite(folder: Path, certificate: Path) -> Iterator[Azurite]:
    """Run Azurite with TLS on loopback during the block. `certificate`: a PEM file with certificate and key.

    It verifies signatures with the account's key, and the claims, but not the signature, of a token of Entra ID.
    """
    home = cache() / "tests" / "azurite-3.37.0"
    program = home / "node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=cache() / "tests") as draft:
            subprocess.run(["npm", "install", "--prefix", draft, "azurite@3.37.0"], check=True, capture_output=True)
            with contextlib.suppress(FileExistsError):
                shutil.copytree(draft, home, symlinks=True)
    port = free_port()
    listen = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--cert", str(certificate), "--key", str(certificate)]
    command = ["node", str(program), *listen, "--oauth", "basic", "--location", str(folder), "--silent"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_port(port, process)
        yield Azurite(f"https://127.0.0.1:{port}/devstoreaccount1")
    finally:
        process.kill()  # it would end only after its clients' connections
        process.communicate()


MLFLOW = "3.14.0"


@dataclass(frozen=True)
class MLflow:
    """A running MLflow tracking server that serves artifacts itself."""

    authority: str

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://{self.authority}"

    def put(self, path: str, files: Mapping[str, bytes]) -> None:
        """Upload files to the server, below `path`."""
        for name, body in files.items():
            url = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{quote(f'{path}/{name}')}"
            with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT")) as answer:
                assert answer.status == 200

    def register(self, name: str, source: str, alias: str = "") -> str:
        """Register a version of a model whose files are at `source`, and return its number."""
        with contextlib.suppress(urllib.error.HTTPError):  # it exists
            self._post("registered-models/create", name=name)
        found = self._post("model-versions/create", name=name, source=source)["model_version"]
        assert isinstance(found, dict)
        if alias:
            self._post("registered-models/alias", name=name, alias=alias, version=found["version"])
        return str(found["version"])

    def _post(self, resource: str, **fields: str) -> dict[str, object]:
        headers = {"Content-Type": "application/json"}
        url = f"{self.url}/api/2.0/mlflow/{resource}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(fields).encode(), headers)) as answer:
            found: dict[str, object] = json.load(answer)
        return found


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[MLflow]:
    """Run MLflow's tracking server on loopback during the block, with its content in `folder`.

    It has an environment of its own (850 MB), made once.
    """
    home = cache() / "tests" / f"mlflow-{MLFLOW}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as draft:
            venv.create(draft, with_pip=True, symlinks=True)
            install = [f"{draft}/bin/python", "-m", "pip", "install", "--quiet", f"mlflow=={MLFLOW}"]
            subprocess.run(install, check=True, capture_output=True)
            with contextlib.suppress(FileExistsError):
                shutil.copytree(draft, home, symlinks=True)
    port = free_port()
    stores = ["--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts")]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [str(home / "bin" / "python"), "-m", "mlflow", "server", *listen, *stores]
    with (folder / "log").open("w") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{command} has ended: {(folder / 'log').read_text()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            threading.Event().wait(0.1)  # its workers need polling
        yield MLflow(f"127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its workers too
        process.wait()


@dataclass(frozen=True)
class Registry:
    """A running OCI registry, and the client that pushes to it."""

    host: str
    crane: Path

    def push_image(self, reference: str, *layers: Path) -> None:
        """Push an image of these layers (tar files)."""
        files = [argument for layer in layers for argument in ("-f", str(layer))]
        command = [str(self.crane), "append", "--insecure", *files, "-t", f"{self.host}/{reference}"]
        subprocess.run(command, check=True, capture_output=True)

    def push_artifact(
        self, name: str, tag: str, files: Mapping[str, bytes], folders: Mapping[str, Path] | None = None
    ) -> str:
        """Push files as ORAS does, each as a layer with a title; return the manifest's digest.

        `folders`: the same, each packed into a tar.
        """
        kind, title_of = "application/vnd.oci.image.layer.v1.tar", "org.opencontainers.image.title"
        layers = [self.blob(name, body, kind, {title_of: title}) for title, body in files.items()]
        for title, tar in (folders or {}).items():
            notes = {title_of: title, "io.deis.oras.content.unpack": "true"}
            layers.append(self.blob(name, tar.read_bytes(), f"{kind}+gzip", notes))
        return str(self.push(name, tag, layers)["digest"])

    def push(
        self,
        name: str,
        reference: str,
        layers: Sequence[Mapping[str, object]],
        *,
        config: str = "application/vnd.oci.empty.v1+json",
        artifact: str = "",
    ) -> dict[str, object]:
        """Push a manifest of blobs and return its descriptor. `config`: the media type of its config, which is empty.

        `artifact`: the artifactType. `reference`: a tag; empty for a manifest without one.
        """
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": self.blob(name, b"{}", config), "layers": layers}
        return self._manifest(name, reference, kind, manifest | ({"artifactType": artifact} if artifact else {}))

    def push_index(self, name: str, reference: str, manifests: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """Push an index of manifests and return its descriptor."""
        kind = "application/vnd.oci.image.index.v1+json"
        return self._manifest(name, reference, kind, {"schemaVersion": 2, "mediaType": kind, "manifests": manifests})

    def blob(
        self, name: str, body: bytes, kind: str = "", annotations: Mapping[str, str] | None = None
    ) -> dict[str, object]:
        """Push a blob and return its descriptor."""
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        place = self._send("POST", f"/v2/{name}/blobs/uploads/", b"", {})
        self._send(
            "PUT",
            f"{place}{'&' if '?' in place else '?'}digest={digest}",
            body,
            {"Content-Type": "application/octet-stream"},
        )
        return {"mediaType": kind, "digest": digest, "size": len(body), "annotations": annotations or {}}

    def _manifest(self, name: str, reference: str, kind: str, manifest: Mapping[str, object]) -> dict[str, object]:
        body = json.dumps(manifest).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self._send("PUT", f"/v2/{name}/manifests/{reference or digest}", body, {"Content-Type": kind})
        return {"mediaType": kind, "digest": digest, "size": len(body)}

    def _send(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> str:
        """Send a request, and return the path of the response's location."""
        request = urllib.request.Request(f"http://{self.host}{target}", body, dict(headers), method=method)
        with urllib.request.urlopen(request) as answer:
            answer.read()
            place = urlsplit(str(answer.headers.get("Location", "")))
        return place.path + (f"?{place.query}" if place.query else "")


def layer(path: Path, members: dict[str, bytes], *, link: str = "") -> Path:
    """Make a layer of an image, or a folder as ORAS packs it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


@contextlib.contextmanager
def registry(log: Path) -> Iterator[Registry]:
    """Run go-containerregistry's registry on loopback during the block; `log` gets a line for every request."""
    crane = go_program("crane", CRANE)
    port = free_port()
    command = [str(crane), "registry", "serve", "--address", f"127.0.0.1:{port}"]
    with log.open("w") as lines:  # a full pipe would block the registry
        process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_port(port, process)
        yield Registry(f"127.0.0.1:{port}", crane)
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def distribution(folder: Path, auth: Mapping[str, object] | None = None) -> Iterator[Registry]:
    """Run the CNCF's registry on loopback during the block, with its content in `folder`.

    `auth`: the section of that name in its configuration. Without it, everyone can push.
    """
    program = go_program("registry", "github.com/distribution/distribution/v3/cmd/registry@v3.0.0")
    crane = go_program("crane", CRANE)
    port = free_port()
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "content")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "tests"},
        "auth": auth or {},
    }
    (folder / "config.json").write_text(json.dumps(settings))  # JSON is YAML
    command = [str(program), "serve", str(folder / "config.json")]
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    with (folder / "log").open("w") as lines:
        process = subprocess.Popen(command, env=environment, stdout=lines, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_port(port, process)
        yield Registry(f"127.0.0.1:{port}", crane)
    finally:
        process.terminate()
        process.communicate()
