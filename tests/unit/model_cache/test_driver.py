"""The driver's calls over a real socket, as the kubelet sends them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest

from model_cache import messages, mounts
from model_cache.driver import NAME, Node, Paths, Server
from model_cache.models import Models
from support import loader_harness as harness


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

    def publish(self, uri: str, target: str, secret: Mapping[str, str] | None = None) -> None:
        pair = [(1, b"arguments"), (2, json.dumps(["--", uri]).encode())]
        keys = [(7, messages.encode([(1, k.encode()), (2, v.encode())])) for k, v in (secret or {}).items()]
        fields = [(1, b"id"), (4, target.encode()), (5, b"\x12\x00"), *keys, (8, messages.encode(pair))]
        self.call("/csi.v1.Node/NodePublishVolume", messages.encode(fields))

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
