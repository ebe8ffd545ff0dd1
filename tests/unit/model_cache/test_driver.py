"""The driver's calls over a real socket, as the kubelet sends them."""

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from model_cache import messages, mounts
from model_cache.driver import NAME, Node, Paths, Server
from model_cache.models import Models
from support import loader_harness as harness

from .conftest import eventually


class Kubelet:
    """Calls the driver, and sees its mounts."""

    def __init__(self, folder: Path, models: Models, patch: pytest.MonkeyPatch) -> None:
        self.mounted: dict[str, Path] = {}
        patch.setattr(mounts, "bind", lambda source, target: self.mounted.update({str(target): source}))
        patch.setattr(mounts, "unmount", lambda target: self.mounted.pop(str(target)))
        patch.setattr(mounts, "is_mounted", lambda target: str(target) in self.mounted)
        self.folder = folder
        self.paths = Paths(folder)
        self.registered: list[messages.RegistrationStatus] = []
        self.server = Server(Node(models, self.paths, "node-1"), self.paths, "1", self.registered.append)

    def target(self, pod: str = "pod-1") -> Path:
        target = self.folder / "pods" / pod / "volumes" / "kubernetes.io~csi" / "model" / "mount"
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def call(self, method: str, request: bytes = b"", *, socket: Path | None = None) -> bytes:
        with grpc.insecure_channel(f"unix://{socket or self.paths.endpoint}") as channel:
            answer: bytes = channel.unary_unary(method)(request)
        return answer

    def publish(self, uri: str, target: str, secret: Mapping[str, str] | None = None, namespace: str = "ns") -> None:
        attributes = {"arguments": json.dumps(["--", uri]), "csi.storage.k8s.io/pod.namespace": namespace}
        maps = [(7, secret or {}), (8, attributes)]
        pairs = [
            (number, messages.encode([(1, key.encode()), (2, value.encode())]))
            for number, found in maps
            for key, value in found.items()
        ]
        self.call(
            "/csi.v1.Node/NodePublishVolume",
            messages.encode([(1, b"id"), (4, target.encode()), (5, b"\x12\x00"), *pairs]),
        )

    def unpublish(self, target: str) -> None:
        self.call("/csi.v1.Node/NodeUnpublishVolume", messages.encode([(1, b"id"), (2, target.encode())]))


@pytest.fixture
def kubelet(tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubelet]:
    folder = Path("/tmp") / f"k{tmp_path.name[-20:]}"  # the path of a socket has at most 107 bytes
    running = Kubelet(folder, models, monkeypatch)
    yield running
    running.server.stop()
    import shutil

    shutil.rmtree(folder)


def test_the_kubelet_finds_the_driver(kubelet: Kubelet) -> None:
    info = messages.decode(kubelet.call("/pluginregistration.Registration/GetInfo", socket=kubelet.paths.registration))
    assert info == {
        1: [b"CSIPlugin"],
        2: [NAME.encode()],
        3: [str(kubelet.paths.endpoint).encode()],
        4: [b"1.0.0"],
    }
    status = b"\x08\x01"
    kubelet.call("/pluginregistration.Registration/NotifyRegistrationStatus", status, socket=kubelet.paths.registration)
    assert kubelet.registered == [(True, "")]
    assert messages.decode(kubelet.call("/csi.v1.Identity/GetPluginInfo"))[1] == [NAME.encode()]
    assert messages.decode(kubelet.call("/csi.v1.Node/NodeGetInfo"))[1] == [b"node-1"]


def test_a_volume_is_mounted_and_unmounted(kubelet: Kubelet, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    target = kubelet.target()
    for _ in range(2):  # the kubelet can repeat a call
        kubelet.publish(f"{web.url}/model.bin", str(target))
    assert harness.contents(kubelet.mounted[str(target)] / "model") == {"model.bin": b"weights"}
    for _ in range(2):
        kubelet.unpublish(str(target))
    assert kubelet.mounted == {}
    assert not target.exists()


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/denied", grpc.StatusCode.PERMISSION_DENIED, "Unauthorized: "),
        ("/absent", grpc.StatusCode.NOT_FOUND, "NotFound: "),
    ],
)
def test_an_error_has_the_loaders_code(
    kubelet: Kubelet, web: harness.WebServer, path: str, code: grpc.StatusCode, said: str
) -> None:
    web.fault = lambda request, _: harness.Reply(403) if request.path == "/denied" else None
    with pytest.raises(grpc.RpcError) as error:
        kubelet.publish(f"{web.url}{path}", str(kubelet.target()))
    assert error.value.code() is code
    assert error.value.details().startswith(said)
    assert kubelet.mounted == {}


@pytest.mark.attack(43)
@pytest.mark.parametrize(
    "target",
    [
        "/etc",
        "{kubelet}/pods/x/volumes/kubernetes.io~secret/model/mount",
        "{kubelet}/pods/../../etc/volumes/kubernetes.io~csi/m/mount",
        "{kubelet}/pods/x/volumes/kubernetes.io~csi/../mount",
        "{kubelet}",
        "",
    ],
)
def test_nothing_else_of_the_node_is_mounted_on(kubelet: Kubelet, web: harness.WebServer, target: str) -> None:
    web.files["/model.bin"] = b"weights"
    for call in (lambda text: kubelet.publish(f"{web.url}/model.bin", text), kubelet.unpublish):
        with pytest.raises(grpc.RpcError) as error:
            call(target.format(kubelet=kubelet.folder))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert kubelet.mounted == {}


@pytest.mark.attack(47)
def test_pods_that_wait_for_slow_stores_delay_no_other_namespace(kubelet: Kubelet, web: harness.WebServer) -> None:
    hostile = harness.WebServer()
    gate = threading.Event()
    hostile.fault = lambda *_: harness.Reply(404) if gate.wait(60) else None
    web.files["/model.bin"] = b"weights"
    codes: list[grpc.StatusCode] = []

    def mount(number: int) -> None:
        with pytest.raises(grpc.RpcError) as error:
            kubelet.publish(f"{hostile.url}/{number}", str(kubelet.target(f"hostile-{number}")), namespace="hostile")
        codes.append(error.value.code())

    try:
        with ThreadPoolExecutor(60) as pods:
            for number in range(60):
                pods.submit(mount, number)
            # All calls but the hostile namespace's share were answered: the kubelet repeats them.
            eventually(lambda: len(codes) == 60 - 32)
            target = str(kubelet.target("normal"))
            kubelet.publish(f"{web.url}/model.bin", target, namespace="normal")
            assert harness.contents(kubelet.mounted[target] / "model") == {"model.bin": b"weights"}
            kubelet.unpublish(target)
            assert kubelet.mounted == {}
            assert len(codes) == 60 - 32
            gate.set()
    finally:
        gate.set()
        hostile.close()
    assert set(codes) == {grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND}


def test_a_pod_that_is_deleted_during_the_download_gets_no_mount(kubelet: Kubelet, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    target = str(kubelet.target())

    def fault(request: harness.Request, number: int) -> harness.Reply | None:
        if number == 1:
            kubelet.unpublish(target)
        return None

    web.fault = fault
    kubelet.publish(f"{web.url}/model.bin", target)
    assert kubelet.mounted == {}


def test_mounts_are_read_from_the_kernels_table() -> None:
    text = (
        "36 35 98:0 /cache/trees/ab\\040c /var/lib/kubelet/pods/1/mount ro,noatime shared:1 - ext4 /dev/root rw\ncut\n"
    )
    assert list(mounts.mounts(text)) == [("/cache/trees/ab c", "/var/lib/kubelet/pods/1/mount", "98:0")]
