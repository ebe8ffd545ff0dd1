"""Reviews that no API server sends: valid ones, changed byte by byte, value by value, and in their HTTP request."""

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from serve_core.base.json import JsonObject
from support.reviews import STORES, deployment, document, knative, leading, pod, request

OBJECTS = [
    deployment(), knative(), knative("Revision"), leading("Route"), leading("DomainMapping"), pod("s3://models/a"),
    document("ServingPolicy", STORES),
]  # fmt: skip


def reviews() -> list[bytes]:
    """Valid reviews, to be changed."""
    other = pod("s3://models/a")
    return [
        request(deployment()),
        request(deployment("s3://elsewhere/a.joblib"), deployment()),
        request(knative(), knative("Service", "s3://models/b")),
        request(other, pod("s3://models/b")),
        request(leading("Route"), leading("DomainMapping")),
        request(document("ServingPolicy", STORES)),
    ]


VALUES = (
    b"null", b"NaN", b"-Infinity", b"1e999", b"{}", b"[[[]]]", b'"\\ud800"', b'"\xff\xfe"', b"9" * 5000, b'""', b"'a'",
    b'"' + b"x" * 50_000 + b'"', b"[" * 3000 + b"]" * 3000, b'{"a":' * 150 + b"1" + b"}" * 150, b'{"a":1,"a":2}',
)  # fmt: skip
TEXTS = (b"\\u0000", b"\\u202e", b"$(A)", b"-", b"../", b"\\n", b"\xc3\x28", "ｓ3://".encode(), b"s3://a@b/")
WRONG_KINDS = (b"Scale", b"List", b"PolicyException", b"ModelRuntime", b"Service", b"Deployment", b"__class__", b"")


def _flipped(body: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(body)
    for _ in range(rng.randrange(1, 20)):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _cut_and_joined(body: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.sample(range(len(body)), 2))
    return body[:start] + rng.choice((b"", body[:end], rng.randbytes(8), b",", b"}")) + body[end:]


def _other_kind(body: bytes, rng: random.Random) -> bytes:
    kind = json.loads(body)["request"]["object"]["kind"].encode()
    return body.replace(b'"kind": "' + kind, b'"kind": "' + rng.choice(WRONG_KINDS), 1)


SPOILERS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda body, rng: body[: rng.randrange(len(body))],
    _flipped,
    _cut_and_joined,
    _other_kind,
    lambda body, rng: body.replace(b'"spec"', b'"spec": 1, "spec"', 1),
    lambda body, rng: body.replace(b'"metadata": {', b'"metadata": [{', 1),
    lambda body, rng: body.replace(b'"ml"', rng.choice(VALUES), 1),
    lambda body, rng: body.replace(rng.choice((b'"s"', b'"iris"', b'"CREATE"', b'"alice"')), rng.choice(VALUES), 1),
    lambda body, rng: body.replace(b"s3://", rng.choice(TEXTS), 1),
    lambda body, rng: body.replace(b'"name"', rng.choice((b'"NAME"', b'"na\\u006de"', b"name", b"1")), 1),
    lambda body, rng: rng.randbytes(rng.randrange(200)),
)


def spoilt(rng: random.Random, good: list[bytes]) -> bytes:
    """A body that is rarely still a review."""
    return rng.choice(SPOILERS)(rng.choice(good), rng)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(("s3://a/b", 0.5))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    below = [place for key, value in inner for place in places(value, (*path, key))]
    return [path, *below] if path else below


@st.composite
def objects(draw: st.DrawFn) -> JsonObject:
    """An object with any value in any place."""
    changed: JsonObject = json.loads(json.dumps(draw(st.sampled_from(OBJECTS))))
    *steps, last = draw(st.sampled_from(places(changed)))
    node: Any = changed
    for step in steps:
        node = node[step]
    node[last] = draw(ANYTHING)
    return changed


def bodies() -> st.SearchStrategy[bytes]:
    """Reviews of such objects, JSON of any shape, and any bytes."""
    return (
        objects().map(request)
        | st.fixed_dictionaries({"request": ANYTHING, "kind": ANYTHING}).map(lambda value: json.dumps(value).encode())
        | st.binary(max_size=200)
    )


LARGEST = 8 * 2**20 - 1024


def heavy() -> dict[str, bytes]:
    """Bodies of the maximum size with what takes the most memory or time for each byte."""

    def filled(value: bytes, separator: bytes = b",") -> bytes:
        return b'{"request":[' + separator.join([value] * (LARGEST // len(value + separator))) + b"]}"

    keys = ",".join(f'"{number:x}":1' for number in range(LARGEST // 11)).encode()
    return {
        "objects": filled(b"{}"),
        "lists": filled(b"[]"),
        "numbers": filled(b"1.5"),
        "texts": filled(b'"ab"'),
        "names": b'{"request":{' + keys + b"}}",
        "nesting": filled(b"[", b""),
        "one text": filled(b'"' + b"x" * (LARGEST - 40) + b'"'),
        "one text of wide letters": filled(b'"' + "😀".encode() * (LARGEST // 4 - 40) + b'"'),
        "one number": filled(b"9" * (LARGEST - 40)),
        "escapes": filled(b'"' + rb"\u00e9" * (LARGEST // 6 - 10) + b'"'),
        "spaces": filled(b" " * (LARGEST - 40)),
    }


def bomb() -> bytes:
    """8 MiB of gzip members that decompress to 8 GiB."""
    member = gzip.compress(bytes(2**20 * 8), 9)
    return member * (LARGEST // len(member))


WRONG_PATHS = ("/", "/metrics", "/../policies", "//policies", "/policies?a=" + "b" * 3000)
PATHS = ("/policies", "/deployments", "/deployments/scale")
JSON_TYPE = b"application/json"
LENGTHS = (b"-1", b"1e3", b"0x10", b"9" * 300, b"8388609", b"1, 2")


def posted(body: bytes, path: str = "/policies", **headers: bytes) -> bytes:
    """A request of the API server, except for ``headers``; without ``Content_Length``, that is right."""
    fields = {"Content_Type": JSON_TYPE, "Content_Length": str(len(body)).encode()} | headers
    lines = [name.replace("_", "-").encode() + b": " + value for name, value in fields.items() if value]
    return b"\r\n".join([f"POST {path} HTTP/1.1".encode(), b"Host: a", *lines, b"", body])


def _chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


FRAMES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda body, rng: posted(body, Content_Type=rng.choice((b"text/plain", b"application/yaml", b"", b"a" * 4000))),
    lambda body, rng: posted(gzip.compress(body), Content_Encoding=rng.choice((b"gzip", b"br", b"zstd", b"x"))),
    lambda body, rng: posted(zlib.compress(b"{" * 10_000_000), Content_Encoding=b"deflate"),
    lambda body, rng: posted(_chunked(body), Content_Length=b"", Transfer_Encoding=b"chunked"),
    lambda body, rng: posted(b"zz\r\n" + body, Content_Length=b"", Transfer_Encoding=b"chunked"),
    lambda body, rng: posted(_chunked(body), Transfer_Encoding=rng.choice((b"chunked", b"identity", b"gzip, chunked"))),
    lambda body, rng: posted(body, Content_Length=rng.choice(LENGTHS)),
    lambda body, rng: posted(body, Content_Length=b"5\r\nContent-Length: 6"),
    lambda body, rng: posted(body, rng.choice(WRONG_PATHS)),
    lambda body, rng: posted(body).replace(b"POST", rng.choice((b"GET", b"PUT", b"TRACE", b"P\x00ST", b"A" * 300)), 1),
    lambda body, rng: posted(body).replace(b"HTTP/1.1", rng.choice((b"HTTP/9.9", b"HTTP/2.0", b"ICY", b"")), 1),
    lambda body, rng: posted(body, X=b"x" * 20_000),
    lambda body, rng: posted(body, X=b"\r\n".join([b"a", *[b"X: b"] * 1000])),
    lambda body, rng: posted(body, X=b"a\x00b"),
    lambda body, rng: posted(body, Upgrade=b"h2c", Connection=b"Upgrade, HTTP2-Settings"),
    lambda body, rng: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(40),
    lambda body, rng: rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n",
)
"""Complete requests that HTTP or the server refuses."""
