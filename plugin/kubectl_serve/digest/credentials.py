"""A Secret of the cluster as the loader's mounted folder, read with the user's own permissions and only on request."""

import asyncio
import base64
import binascii
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory

from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect, namespace_of
from kubectl_serve.errors import ServeError
from kubectl_serve.io.readable import readable
from serve_kube import errors
from serve_kube.resources import SECRETS

_KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}", re.ASCII)
"""Kubernetes' limit, checked here as well: the API server's answer must not choose a path on this machine."""
_NAMES_A_FILE = "_FILE"
"""Suffixes of keys with the path of a file, such as AWS_WEB_IDENTITY_TOKEN_FILE."""
_KEYS = "For S3 its keys are AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; docs/loader.md lists others."
_OTHERWISE = "Or use a directory with its keys as files: --credentials-dir DIR."


@contextmanager
def mounted(name: str, args: Namespace, streams: Streams, connect: Connect) -> Iterator[Path]:
    """A temporary folder, readable only by this user, with the keys of Secret ``name`` as files.

    Keys with the path of a file are left out: the Secret's author could send a file of this machine to any server.
    Raises ServeError where the Secret cannot be read.
    """
    found = asyncio.run(_read(name, args, streams, connect))
    with TemporaryDirectory(prefix="kubectl-serve-", ignore_cleanup_errors=True) as folder:
        for key, value in found.items():
            if not key.endswith(_NAMES_A_FILE):
                (Path(folder) / key).write_bytes(value)
        yield Path(folder)


async def _read(name: str, args: Namespace, streams: Streams, connect: Connect) -> dict[str, bytes]:
    async with readable(connect)(args, streams) as cluster:
        namespace = namespace_of(args, cluster)
        try:
            secret = await cluster.get(SECRETS, namespace, name)
        except errors.NotFoundError as error:
            create = f"kubectl create secret generic {quote(name)} -n {quote(namespace)} --from-env-file=FILE"
            raise ServeError(
                f"there is no Secret {name} in namespace {namespace}.",
                f"Check -n and the name, or create it: `{create}`. {_KEYS} {_OTHERWISE}",
            ) from error
        except errors.ForbiddenError as error:
            raise ServeError(
                f"you are not allowed to read Secret {name} in namespace {namespace}: {error.message.rstrip('.')}.",
                f"Ask the cluster administrator for permission to get it. {_OTHERWISE} {_KEYS}",
            ) from error
    return dict(_decoded(key, value, name) for key, value in (secret.get("data") or {}).items())


def _decoded(key: str, value: str, name: str) -> tuple[str, bytes]:
    try:
        if _KEY.fullmatch(key) and key != ".":
            return key, base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ServeError(f"Secret {name} cannot be read: a key is invalid, or a value is not base64.", "Create it again.")
