"""OpenSSF model signatures: whether a model consists of exactly the files that the owner of a key signed.

A signature is the file `model.sig` in the model's folder, as PyPI's `model-signing` writes it: a Sigstore bundle around
a signed list of files with the sha256 of each. That library verifies the signature. The files' hashes come from the
download, so the loader does not read the files again.

The list must name every file, even those in the signer's `ignore_paths`: a model server may read any of them.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from model_loader.outcomes import Code, LoadError
from model_loader.plan.paths import below
from model_loader.storage.volume import SafeDir

NAME = "model.sig"
"""The signature's default file name in the signing tool."""

_UNSIGNED = frozenset({NAME, ".gitattributes", ".gitignore"})
"""Files at the top that the list may omit: the tool omits git's files, and Hugging Face adds them."""
_KEY_BYTES = 1 << 20
_SIGNATURE_BYTES = 32 << 20
"""A list of 100,000 files has 25 MiB."""


def read_key(file: Path) -> bytes:
    """Return the content of a key file. Raises LoadError(CannotVerify)."""
    try:
        with file.open("rb") as stream:
            return stream.read(_KEY_BYTES)
    except OSError as error:
        raise LoadError(Code.CANNOT_VERIFY, f"the key {file} cannot be read: {error.strerror}") from None


class Verifier:
    """Verifies signatures with a public key, or with the certificates of trusted authorities."""

    def __init__(self, key: bytes) -> None:
        """`key`: PEM. Raises LoadError(CannotVerify) if it is not a key, or the library is missing."""
        try:
            # The library's public `verify` reads and hashes the whole model again. These are its other parts.
            from model_signing._signing import sign_certificate, sign_ec_key, sign_sigstore_pb  # noqa: PLC0415
        except ImportError as error:
            raise LoadError(
                Code.CANNOT_VERIFY,
                f"this loader does not have the libraries for verifying signatures: {error}",
                hint="The image model-loader:…-signing has them: name it as loader.signingImage in the settings.",
            ) from None
        self._read = sign_sigstore_pb.Signature.read
        self._verifier: sign_ec_key.Verifier | sign_certificate.Verifier
        try:
            with _as_file(key) as path:
                if b"-----BEGIN CERTIFICATE-----" in key:
                    self._verifier = sign_certificate.Verifier([path])
                else:
                    self._verifier = sign_ec_key.Verifier(path)
        except LoadError:
            raise
        except Exception as error:  # noqa: BLE001  # any error of the libraries means that it is not a key
            raise LoadError(
                Code.CANNOT_VERIFY,
                f"the key is neither a public key (P-256, P-384 or P-521) nor a certificate in PEM: {_describe(error)}",
            ) from None

    def check(
        self, folder: SafeDir, hashes: Mapping[str, str], places: Iterable[str], left_out: Iterable[str] = ()
    ) -> None:
        """Verify that `folder` has all signed files and no others. `hashes`: each file's sha256 in hex, by path.

        `places`: the folders of the sources (empty: the model's own). Each has its own signature, for the files below
        it except those in a place further down. `left_out`: paths of the sources' files that were not loaded, and so
        can be missing. Raises LoadError(NotSigned), and OSError.
        """
        groups: dict[str, dict[str, str]] = {place: {} for place in places}
        for path in _files(folder):
            place = _place(path, groups)
            if place not in groups or path not in hashes:
                raise _not_signed(f"{path} is not from any source", path)
            groups[place][path[len(place) + 1 :] if place else path] = hashes[path]
        missing = set(left_out) - hashes.keys()
        for place, files in groups.items():
            signed = self._signed(folder, files, place)
            _compare(
                {name: sha256 for name, sha256 in signed.items() if below(place, name) not in missing}, files, place
            )

    def _signed(self, folder: SafeDir, files: Mapping[str, str], place: str) -> dict[str, str]:
        """Return the sha256 of each file, by path, from the verified signature in `place`."""
        path = below(place, NAME)
        if NAME not in files:
            raise _not_signed(f"the model has no signature {path}", path)
        with open(folder.open(path, os.O_RDONLY), "rb") as stream:
            text = stream.read(_SIGNATURE_BYTES + 1)
        if len(text) > _SIGNATURE_BYTES:
            raise _not_signed(f"{path} is too large for a signature", path)
        try:
            with _as_file(text) as file, contextlib.redirect_stdout(sys.stderr):
                manifest = self._verifier.verify(self._read(file))
            method = manifest.serialization_type["method"]
            digests = {entry.identifier: entry.digest for entry in manifest.resource_descriptors()}
        except LoadError:
            raise
        except Exception as error:  # noqa: BLE001  # any error of the libraries means that the signature is invalid
            raise _not_signed(f"the signature {path} is invalid: {_describe(error)}", path) from None
        if method != "files" or any(digest.algorithm != "sha256" for digest in digests.values()):
            raise _not_signed(f"the signature {path} does not sign the sha256 of whole files", path)
        signed = {name: digest.digest_hex for name, digest in digests.items()}
        own = files.keys() - _UNSIGNED
        if signed.keys() == {"."} and len(own) == 1:
            return {own.pop(): signed["."]}  # the signer named the file itself instead of its folder
        return signed


def _place(path: str, places: Container[str]) -> str:
    """Return the innermost of `places` that has the file at `path`; empty if none has it."""
    place = path.rpartition("/")[0]
    while place and place not in places:
        place = place.rpartition("/")[0]
    return place


def _compare(signed: Mapping[str, str], files: Mapping[str, str], place: str) -> None:
    changed = {name for name in signed.keys() & files.keys() if signed[name] != files[name]}
    for names, what in (
        (changed, "is not the file that was signed"),
        (files.keys() - signed.keys() - _UNSIGNED, "is not among the files that were signed"),
        (signed.keys() - files.keys(), "was signed and is missing"),
    ):
        if names:
            path = below(place, min(names))
            raise _not_signed(f"{path} {what}", path)


def _files(folder: SafeDir) -> list[str]:
    """Return the path of every file below `folder`. Raises LoadError(NotSigned) for anything but files, and OSError."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names, fd in os.fwalk(".", onerror=fail, dir_fd=folder.fd):
        for name in (*names, *folders):
            path = os.path.normpath(f"{parent}/{name}")
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise _not_signed(f"{path} is not a regular file", path)
    return found


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[Path]:
    """Yield a path with the content `data`: the libraries read only files, and the root file system is read-only."""
    with open(os.memfd_create("model-loader"), "wb") as file:
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _describe(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return "".join(character if character.isprintable() else "?" for character in text[:200])


def _not_signed(message: str, file: str) -> LoadError:
    return LoadError(Code.NOT_SIGNED, message, file=file)
