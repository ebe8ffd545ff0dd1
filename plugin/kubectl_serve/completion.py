"""Completion for kubectl: it runs ``kubectl_complete-serve`` with the words typed so far and reads candidates.

The output has one candidate per line, optionally with a tab and its meaning, and a last line such as ``:4``. Source:
kubectl's pkg/cmd/plugin_completion.go and cobra's completions.go.
"""

import sys
from collections.abc import Iterable

from kubectl_serve.cli.flags import FLAGS
from kubectl_serve.cli.verbs import BY_NAME, FILES, SERVED, VALUE_FLAGS, VERBS, split

_NO_FILES = 4
_DEFAULT = 0
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@=+-")
_FIRST_NOT = tuple("._:/@=+-")
_SECONDS = "3s"
"""Time limit of a request: completion must be fast."""


def main(words: list[str]) -> int:
    """``words``: those after ``kubectl serve``; the last one is at the cursor. Never fails."""
    try:
        found, directive = _complete(words[:-1], words[-1] if words else "")
    except Exception:  # noqa: BLE001  # a traceback would appear inside the command line
        found, directive = [], _DEFAULT
    sys.stdout.write("".join(f"{line}\n" for line in found) + f":{directive}\n")
    return 0


def _complete(before: list[str], typed: str) -> tuple[list[str], int]:
    verb, rest = split(before)
    if verb is None or (before and before[-1] in VALUE_FLAGS and not rest):
        if before and before[-1] in ("-n", "--namespace"):
            return _names("namespaces", before, typed), _NO_FILES
        if before and before[-1] == "--context":
            return _contexts(before, typed), _NO_FILES
        if before and before[-1] == "--kubeconfig":
            return [], _DEFAULT
        return [f"{each.name}\t{each.summary}" for each in VERBS if each.name.startswith(typed)], _NO_FILES
    if verb not in BY_NAME:
        return [], _NO_FILES
    return _after_verb(verb, before, typed)


def _after_verb(verb: str, before: list[str], typed: str) -> tuple[list[str], int]:
    flag, separator, value = typed.partition("=")
    if separator and flag.startswith("--"):
        found, directive = _values(verb, flag, value, before)
        return [f"{flag}={each}" for each in found], directive
    if before[-1].startswith("-") and _takes_value(verb, before[-1]):
        return _values(verb, before[-1], typed, before)
    if typed.startswith("-"):
        return _flags(verb, typed), _NO_FILES
    completes = BY_NAME[verb].completes
    if completes == FILES:
        return [], _DEFAULT
    if completes == SERVED or (verb, True) in (("policy", "explain" in before), ("cache", "prefetch" in before)):
        return _names(SERVED, before, typed), _NO_FILES
    return [word for word in completes if word.startswith(typed)], _NO_FILES


def _flags(verb: str, typed: str) -> list[str]:
    found = [f"{name}\t{meaning}" for names, _, _, meaning in FLAGS[verb] for name in names if name.startswith("--")]
    return sorted(line for line in found if line.startswith(typed))


def _takes_value(verb: str, flag: str) -> bool:
    return any(takes for names, takes, _, _ in FLAGS[verb] if flag in names)


def _values(verb: str, flag: str, typed: str, before: list[str]) -> tuple[list[str], int]:
    if flag in ("-n", "--namespace"):
        return _names("namespaces", before, typed), _NO_FILES
    if flag == "--context":
        return _contexts(before, typed), _NO_FILES
    if flag in ("-f", "--filename", "--kubeconfig", "--credentials-dir"):
        return [], _DEFAULT
    if flag == "--roll-out":
        return _names(SERVED, before, typed), _NO_FILES
    known = next((values for names, _, values, _ in FLAGS[verb] if flag in names), ())
    return [value for value in known if value.startswith(typed)], _NO_FILES


def _names(of: str, before: list[str], typed: str) -> list[str]:
    """Names of served Deployments or of namespaces in the cluster that the typed flags choose."""
    import asyncio

    return _plain(asyncio.run(_ask(of, before)), typed)


def _contexts(before: list[str], typed: str) -> list[str]:
    """Names of contexts in the kubeconfig."""
    import os

    from kubectl_serve import kubeconfig
    from kubectl_serve.cli import options

    args = options.connection_of(before, _SECONDS)
    return _plain(kubeconfig.contexts(args, os.environ), typed)


def _plain(names: Iterable[object], typed: str) -> list[str]:
    """The names that a shell reads as one plain word: any other name could be a command."""
    return [
        name
        for name in names
        if isinstance(name, str) and _PLAIN.issuperset(name) and not name.startswith(_FIRST_NOT)
        if name and name.startswith(typed)
    ]


async def _ask(of: str, before: list[str]) -> list[object]:
    from kubectl_serve import connection
    from kubectl_serve.cli import options
    from kubectl_serve.cli.streams import Streams
    from kubectl_serve.cluster import namespace_of
    from serve_core.base.constants import SERVED_LABEL
    from serve_core.base.json import value_at
    from serve_kube.resources import DEPLOYMENTS, NAMESPACES

    args = options.connection_of(before, _SECONDS)
    async with connection.connect(args, Streams.of_process()) as opened:
        if of == "namespaces":
            found, _ = await opened.list(NAMESPACES, None)
        else:
            found, _ = await opened.list(DEPLOYMENTS, namespace_of(args, opened), labels=f"{SERVED_LABEL}=true")
    return [value_at(each, "metadata", "name") for each in found]
