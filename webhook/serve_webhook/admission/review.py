"""Admission reviews: bytes in, bytes out. Pure.

What the API server sends is answered; what no API server would send is a :class:`MalformedError`. Nothing fails
otherwise: a defect in the core becomes a refusal that says so.
"""

import base64
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_core.admission.decide import judge
from serve_core.api.annotations import MODEL
from serve_core.base.constants import SERVED_LABEL, SERVER_USERNAME
from serve_core.base.json import JsonObject, field_path, value_at
from serve_core.base.patch import json_patch
from serve_core.base.reasons import MOST_PROBLEMS, Diagnostic, capped, diagnostic
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext

API_VERSION = "admission.k8s.io/v1"
MOST_OBJECTS = 50_000
"""And lists, in one review without its managed fields. What is made of an object is bounded more narrowly, by
:mod:`serve_core.base.bounds`; this is so that it can be parsed at all, and what is deleted be let go."""
MOST_VALUES = 100_000
"""In one review, counted by the commas between them: parsed, 8 MiB of small values would be 300 MiB."""
DEEPEST = 100
"""Levels of nesting; a Deployment with everything in it has about 20."""
LONGEST_MESSAGE = 64 * 1024
"""Characters of a refusal."""
MOST_OPERATIONS = 10_000
"""Of a patch; the API server takes as many from a user (k8s.io/apiserver, pkg/endpoints/handlers/patch.go)."""
LARGEST_PATCH = 2**20
"""Bytes. The object that it makes has to fit into 1.5 MiB, the largest request that etcd takes."""
LONGEST_WARNING = 256
"""Characters to which the API server may cut one (k8s.io/apiserver, pkg/endpoints/filters/warning.go)."""

_MANAGED_FIELDS = b'"managedFields":['
_TO_THE_END = re.compile(rb'[^"\]]*+(?:"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)[^"\]]*+)*+', re.DOTALL)
"""The rest of a list that has no other lists in it, or of everything. It never tracks back."""
_MOST_MANAGED_FIELDS = 16
"""Lists of them in one review. The object and the old object have one each, and templates of claims may."""

_MOST_DIGITS = 20
"""Of an integer, its sign too: 64 bits have no more, and reading thousands of digits takes quadratic time."""

_HEAD = re.compile(
    rb'\{"kind":"AdmissionReview","apiVersion":"admission\.k8s\.io/v1","request":\{"uid":"([^"\\]{1,253})"'
)
"""How the API server begins."""

logger = logging.getLogger(__name__)


class MalformedError(ValueError):
    """The request is not an admission review: no API server sent it."""


class UnknownNamespaceError(LookupError):
    """The watch has not brought the request's namespace yet; the message is its name."""


class UnseenError(LookupError):
    """The watch has not brought the Deployment as whoever wrote has seen it."""


class UserInfo(BaseModel):
    username: str = ""
    groups: tuple[str, ...] = Field((), strict=False)


class AdmissionRequest(BaseModel):
    """``AdmissionRequest`` of admission.k8s.io/v1, as far as it is read."""

    model_config = ConfigDict(frozen=True, strict=True)

    uid: str = Field(min_length=1, max_length=253)
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    namespace: str = Field("", pattern=r"^[a-z0-9-]{0,63}$")
    name: str = ""
    user: UserInfo = Field(alias="userInfo")
    new: JsonObject | None = Field(None, alias="object")
    old: JsonObject | None = Field(None, alias="oldObject")


class AdmissionReview(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    api_version: Literal["admission.k8s.io/v1"] = Field(alias="apiVersion")
    kind: Literal["AdmissionReview"]
    request: AdmissionRequest


@dataclass(frozen=True)
class AdmissionResponse:
    """What became of a request. ``problems`` are the lines of a refusal."""

    patch: tuple[JsonObject, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code: int = 422
    """HTTP status of a refusal, as the API server passes it on."""
    reason: str = "Invalid"

    @cached_property
    def encoded_patch(self) -> bytes:
        """The patch in JSON."""
        return json.dumps(self.patch).encode()

    @property
    def decision(self) -> str:
        if self.problems:
            return "error" if self.code == 500 else "refused"
        return "completed" if self.patch else "allowed"


Reviewer = Callable[[AdmissionRequest], AdmissionResponse]


def review(body: bytes, reviewer: Reviewer) -> tuple[bytes, str]:
    """Answer one AdmissionReview; also returns the decision in a word.

    Raises :class:`MalformedError`, and :class:`UnknownNamespaceError` and :class:`UnseenError` where ``reviewer`` does.
    """
    try:
        document = parse(body)
    except MalformedError as error:
        if (head := _HEAD.match(body)) is None:
            raise
        # An error or a time-out would be as good as a yes where a webhook fails open.
        answer = AdmissionResponse(problems=(str(diagnostic("InvalidObject", "metadata", why=error)),))
        return json.dumps(_response(head[1].decode(errors="replace"), answer)).encode(), answer.decision
    try:
        request = AdmissionReview.model_validate(document).request
    except ValidationError as error:
        # Only places are repeated, never values: they are whatever an unknown caller sent.
        places = ", ".join(field_path(*fault["loc"]) or "the document" for fault in error.errors()[:5])
        raise MalformedError(f"not an AdmissionReview of {API_VERSION}: {places}") from None
    try:
        answer = reviewer(request)
    except (UnknownNamespaceError, UnseenError):
        raise
    except Exception:  # the API server must hear that it was a defect, not a time-out
        logger.exception("Reviewing %s %s/%s failed.", request.operation, request.namespace, request.name)
        text = "Internal: kubectl-serve failed on this object; its log says more."
        answer = AdmissionResponse(problems=(text,), code=500, reason="InternalError")
    return json.dumps(_response(request.uid, answer)).encode(), answer.decision


def mutate(request: AdmissionRequest, context: ClusterContext) -> AdmissionResponse:
    """Complete, give back or refuse a Deployment."""
    if request.new is None or _exempt(request):
        return AdmissionResponse()
    verdict = judge(request.new, context, request.old)
    if verdict.refused or verdict.deployment is None:
        return AdmissionResponse(problems=lines(verdict.problems))
    patch = tuple(json_patch(request.new, verdict.deployment))
    answer = AdmissionResponse(patch=patch, warnings=shortened(verdict.warnings))
    if len(patch) > MOST_OPERATIONS or len(answer.encoded_patch) > LARGEST_PATCH:
        why = f"the patch has more than {MOST_OPERATIONS:,} operations or {LARGEST_PATCH // 2**20} MiB"
        return AdmissionResponse(problems=(str(diagnostic("TooLarge", "metadata", why=why)),))
    return answer


def scale(request: AdmissionRequest, deployment: JsonObject | None) -> AdmissionResponse:
    """Answer, not obey, the scaling of a parked Deployment. ``deployment``: the one that is scaled, if it is known."""
    if request.new is None or _exempt(request) or deployment is None or not is_parked(deployment):
        return AdmissionResponse()
    wanted = request.new.get("spec")
    if not isinstance(wanted, dict) or not wanted.get("replicas"):
        return AdmissionResponse()
    return AdmissionResponse(problems=(str(diagnostic("Parked", "spec.replicas")),), code=403, reason="Forbidden")


def is_parked(deployment: JsonObject) -> bool:
    """Whether Knative runs this Deployment's pods: it asks for that, and admission has seen it."""
    workload = Workload(deployment)
    return MODEL in workload.annotations and SERVED_LABEL in workload.labels


def _exempt(request: AdmissionRequest) -> bool:
    """Our own writes must not complete anew, and what is being deleted only loses finalizers."""
    metadata = (request.new or {}).get("metadata")
    going = isinstance(metadata, dict) and bool(metadata.get("deletionTimestamp"))
    return request.user.username == SERVER_USERNAME or going or request.operation not in ("CREATE", "UPDATE")


def _check_values(body: bytes) -> None:
    """Raise :class:`MalformedError` where parsing it would take too long, or more memory than there is."""
    if len(body) <= MOST_OBJECTS:  # too short for either
        return
    if body.count(b"{") + body.count(b"[") > MOST_OBJECTS:
        raise MalformedError(f"it has more than {MOST_OBJECTS:,} objects in it")
    if body.count(b",") > MOST_VALUES:
        raise MalformedError(f"it has more than {MOST_VALUES:,} values in it")


def _response(uid: str, answer: AdmissionResponse) -> JsonObject:
    response: JsonObject = {"uid": uid, "allowed": not answer.problems}
    if answer.problems:
        response["status"] = {
            "status": "Failure",
            "code": answer.code,
            "reason": answer.reason,
            "message": "\n".join(_shown(answer.problems)),
        }
    elif answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(answer.encoded_patch).decode()
    if answer.warnings:
        response["warnings"] = list(answer.warnings)
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _shown(problems: tuple[str, ...]) -> Iterator[str]:
    """The lines of a refusal. How many more problems there are is not known: they were not even looked for."""
    length = 0
    for number, line in enumerate(problems):
        length += len(line)
        if number >= MOST_PROBLEMS or (number and length > LONGEST_MESSAGE):
            yield "and more like these"
            return
        yield line


def lines(problems: Iterable[Diagnostic]) -> tuple[str, ...]:
    """Problems as texts, as far as they are said."""
    return tuple(map(str, capped(problems)))


def shortened(warnings: Iterable[Diagnostic]) -> tuple[str, ...]:
    """The same of warnings, each as short as the API server may cut it."""
    return tuple(
        text if len(text) <= LONGEST_WARNING else text[: LONGEST_WARNING - 1] + "…" for text in lines(warnings)
    )


def parse(body: bytes) -> Any:
    """JSON as RFC 8259 has it, and stricter than Python: no duplicate names, NaN, infinity or lone surrogates, and a
    bounded number of values and depth, managed fields aside, which are left out. Raises :class:`MalformedError`."""
    body = _without_managed_fields(body)
    _check_values(body)
    document = _parsed(body)
    _drop_managed_fields(document)
    if _too_deep(document):
        raise MalformedError("nested too deeply")
    return document


def _parsed(body: bytes) -> Any:
    """What can be written again just as it came has lost nothing: no name was there twice, no number out of range."""
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        document = orjson.loads(body)
        if _as_go_writes(document) == body:
            return document
    return parse_with_care(body)


def _as_go_writes(document: Any) -> bytes:
    text = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return text.replace(b"&", rb"\u0026").replace(b"<", rb"\u003c").replace(b">", rb"\u003e")


def parse_with_care(body: bytes) -> Any:
    """The same of any text, several times as slow."""
    try:
        document = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except MalformedError:
        raise
    except ValueError:  # syntax or encoding
        raise MalformedError("not JSON") from None
    if b"\\u" in body:  # half of a pair comes by an escape only: as UTF-8 it was refused already
        _encodable(document)
    return document


def _without_managed_fields(body: bytes) -> bytes:
    """The review without the half of an object that nobody here reads: who set which of its fields.

    The API server stores as much of it as anybody sends, nested as deep as it is, so it is not parsed. Within a string
    these letters would have a backslash before each quote; other lists within make the rest no JSON.
    """
    kept, start = [], 0
    for _ in range(_MOST_MANAGED_FIELDS):
        if (found := body.find(_MANAGED_FIELDS, start)) < 0:
            break
        inside = found + len(_MANAGED_FIELDS)
        kept.append(body[start:inside])
        start = inside
        if body[found - 1 : found] in (b"{", b",") and (rest := _TO_THE_END.match(body, inside)):
            start = rest.end()
    return b"".join((*kept, body[start:])) if kept else body


def _drop_managed_fields(document: Any) -> None:
    """The same, in place, of what was written in another way than the API server's."""
    for key in ("object", "oldObject"):
        metadata = value_at(document, "request", key, "metadata")
        if isinstance(metadata, dict):
            metadata.pop("managedFields", None)


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a name occurs twice in one object")
    return members


def _no_constant(_: str) -> NoReturn:
    raise MalformedError("NaN and Infinity are not JSON")


def _short(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise MalformedError("a number is too large")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise MalformedError("a number is too large")
    return number


def _too_deep(document: Any) -> bool:
    """Without recursion."""
    level = [document]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return False
        level = inner
    return True


def _encodable(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedError("a string has half of a surrogate pair") from None
