"""How CPU time grows with the input, measured on inputs that double in size."""

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

LENGTHS = (16, 18, 20, 22, 24, *(32 * 2**power for power in range(10)))
"""Of inputs. The first steps are small, so that exponential time is found before it takes too long. For the longest,
quadratic time is tenths of a second, and linear time a millisecond."""
_SLACK = 0.002
"""Seconds that a busy machine may add to a measurement."""
_METHODS = ("match", "fullmatch", "search", "split", "sub", "subn", "findall", "finditer")


def seconds(act: Callable[[str], object], text: str) -> float:
    """CPU time, the shortest of three runs."""
    found = []
    for _ in range(3):
        started = time.process_time()
        act(text)
        found.append(time.process_time() - started)
        if found[-1] < _SLACK:
            break
    return min(found)


def superlinear(act: Callable[[str], object], made: Callable[[int], str]) -> str:
    """Where the time more than triples while the input at most doubles; empty if it never does."""
    before = seconds(act, made(LENGTHS[0]))
    for shorter, longer in itertools.pairwise(LENGTHS):
        now = seconds(act, made(longer))
        if now > 3 * before + _SLACK:
            return f"{before * 1000:.1f} ms for {shorter} characters, {now * 1000:.1f} ms for {longer}"
        before = now
    return ""


def families(alphabet: str, starts: tuple[str, ...] = ("",)) -> Iterator[Callable[[int], str]]:
    """Generators of texts: one or two repeated characters, with an end that matches or does not."""
    units = [*alphabet, *(one + other for one in alphabet for other in alphabet if one != other)]
    for start in starts:
        for unit in units:
            for end in ("", "\x00"):
                yield lambda length, start=start, unit=unit, end=end: (  # type: ignore[misc]
                    start + unit * (length // len(unit)) + end
                )


def alphabet(pattern: str | bytes) -> str:
    """Some characters of a pattern: a letter, a digit, and each of its punctuation marks."""
    pattern = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    marks = dict.fromkeys(c for c in '-._:/@~=,$(){}%* +[]\\"' if c in pattern)
    letters = dict.fromkeys(c for c in ("a", "A", "0", "s", "h") if c in pattern or c in "a0")
    return "".join((*letters, *list(marks)[:8]))


def modules(package: ModuleType) -> list[ModuleType]:
    """All modules of a package."""
    names = (found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."))
    return [package, *map(importlib.import_module, names)]


def patterns(package: ModuleType) -> dict[str, tuple[re.Pattern[Any], frozenset[str]]]:
    """Every compiled pattern of a package by its place, with the methods that are called on it.

    Found in what modules hold, in what functions closed over, and where ``re``'s own functions are called with one.
    """
    found: dict[str, tuple[re.Pattern[Any], frozenset[str]]] = {}
    for module in modules(package):
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            called = frozenset(re.findall(rf"\b{re.escape(name)}\.({'|'.join(_METHODS)})\(", source))
            for place, pattern in _within(value, f"{module.__name__}.{name}", module.__name__, set()):
                known = called if place.endswith(f".{name}") else frozenset()
                found.setdefault(place, (pattern, known or frozenset({"fullmatch"})))
        for place, pattern, method in _called(module, source):
            found[place] = (pattern, frozenset({method}))
    return found


def _within(value: Any, place: str, module: str, seen: set[int]) -> Iterator[tuple[str, re.Pattern[Any]]]:
    if isinstance(value, re.Pattern):
        yield place, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: list[tuple[object, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] == module.partition(".")[0]:
        inner = [(name, cell.cell_contents) for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ())]  # noqa: B905
    elif isinstance(value, functools.partial):
        inner = [("args", value.args)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    for key, each in inner:
        yield from _within(each, f"{place}[{key}]", module, seen)


def _called(module: ModuleType, source: str) -> Iterator[tuple[str, re.Pattern[Any], str]]:
    """Patterns that ``re.match(PATTERN, …)`` and the like name: constants, or made of what the module has."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in _METHODS:
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
            text = eval(compile(ast.Expression(node.args[0]), "pattern", "eval"), dict(vars(module)))
            yield f"{module.__name__}:{node.lineno}", re.compile(text, re.ASCII), node.func.attr
