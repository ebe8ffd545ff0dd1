"""The address of an API server and the credentials for it, as kubernetes-asyncio reads them.

The library reads kubeconfig files (tokens, certificates, exec and OIDC plugins) and a pod's service account, and keeps
tokens fresh. Nothing else of it is used: its typed models are slow and large, and lose fields that they do not know.
"""

import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec, module_from_spec
from typing import Any, Self

from serve_kube.errors import UnavailableError, reason

_TOKEN = "BearerToken"  # noqa: S105 - the library's name for it


@dataclass
class Connection:
    """One API server and the credentials for it. The library sets these attributes; the names are its own."""

    host: str = "http://localhost"
    ssl_ca_cert: str | None = None
    """Path of the certificate authorities (PEM); None: the system's."""
    cert_file: str | None = None
    """Path of the client certificate (PEM)."""
    key_file: str | None = None
    verify_ssl: bool = True
    tls_server_name: str | None = None
    proxy: str | None = None
    api_key: dict[str, str] = field(default_factory=dict)
    """``BearerToken``: the value of the Authorization header."""
    refresh_api_key_hook: Callable[["Connection"], Awaitable[None] | None] | None = None
    """Brings the token up to date before each request."""

    @classmethod
    def in_cluster(cls) -> Self:
        """The cluster that this pod runs in. Raises :data:`ConfigException`."""
        connection = cls()
        config.load_incluster_config(client_configuration=connection)
        return connection

    @classmethod
    async def of_kubeconfig(cls, path: str | None = None) -> Self:
        """The current context of a kubeconfig, by default KUBECONFIG's. Raises :data:`ConfigException`."""
        connection = cls()
        await config.load_kube_config(config_file=path, client_configuration=connection)
        return connection

    def use_token(self, token: str) -> None:
        self.api_key[_TOKEN] = f"Bearer {token}"
        self.refresh_api_key_hook = None

    async def authorization(self) -> str | None:
        """The value of the Authorization header. Raises UnavailableError if the token cannot be read."""
        if self.refresh_api_key_hook is not None:
            try:
                refreshed = self.refresh_api_key_hook(self)
                if refreshed is not None:
                    await refreshed
            except (ConfigException, OSError) as error:
                raise UnavailableError(f"the API server's token cannot be read: {reason(error)}") from error
        return self.api_key.get(_TOKEN)

    def tls(self) -> ssl.SSLContext | None:
        """For an https host. Raises OSError and ValueError for certificates that cannot be used."""
        if not self.host.startswith("https:"):
            return None
        context = ssl.create_default_context(cafile=self.ssl_ca_cert)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, keyfile=self.key_file)
        if not self.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        # Go's clients accept certificates without the extensions that Python 3.13 began to insist on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


@contextmanager
def _without_models() -> Iterator[None]:
    """Import ``kubernetes_asyncio.config`` without the library's 700 model classes, which take 0.4 s and 38 MiB.

    Before it imports a module, Python runs the packages around it, and these import everything. So this puts the
    packages into sys.modules without running them. ``config`` needs two names of ``client``: the class that it fills
    in, which is :class:`Connection`, and one for an annotation. Finally the library leaves sys.modules: another import
    in this process gets a complete library.
    """
    name = "kubernetes_asyncio"
    is_whole = name in sys.modules
    try:
        if not is_whole:
            for package in (name, f"{name}.client"):
                if (spec := find_spec(package)) is None:
                    raise ImportError(f"there is no {package}")
                sys.modules[package] = module_from_spec(spec)
            vars(sys.modules[f"{name}.client"]).update(Configuration=Connection, ApiClient=object)
        yield
    finally:
        if not is_whole:
            for each in [each for each in sys.modules if each.partition(".")[0] == name]:
                del sys.modules[each]


config: Any
try:
    with _without_models():
        from kubernetes_asyncio import config
        from kubernetes_asyncio.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger
except (ImportError, AttributeError):  # another version of the library, with other needs: slower, but correct
    from kubernetes_asyncio import config
    from kubernetes_asyncio.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger

ConfigException = config.ConfigException
"""The kubeconfig, or the service account, cannot be used."""

__all__ = ["ConfigException", "ConfigNode", "Connection", "KubeConfigLoader", "KubeConfigMerger"]
