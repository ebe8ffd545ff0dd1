"""Admission reviews: bytes in, bytes out. Pure.

Every review of an API server gets an answer; a request that no API server sends is a :class:`MalformedError`. A bug in
the core becomes a refusal that says so.
"""

import base64
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_core.admission.decide import judge
from serve_core.api.annotations import MODEL
from serve_core.base.bounded_json import JsonError
from serve_core.base.constants import SERVED_LABEL, SERVER_USERNAME
from serve_core.base.json import JsonObject, field_path
from serve_core.base.patch import json_patch
from serve_core.base.reasons import MAX_PROBLEMS, Diagnostic, capped, diagnostic
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.knative import queue_proxy
from serve_webhook.admission import parsing

API_VERSION = "admission.k8s.io/v1"
MAX_MESSAGE = 64 * 1024
"""Characters of a refusal."""
MAX_OPERATIONS = 10_000
"""Of a patch; the API server takes as many from a user (k8s.io/apiserver, pkg/endpoints/handlers/patch.go)."""
MAX_PATCH_BYTES = 2**20
"""The patched object must fit into 1.5 MiB, the largest request that etcd accepts."""
MAX_WARNING = 256
"""Characters to which the API server may cut one (k8s.io/apiserver, pkg/endpoints/filters/warning.go)."""

_HEAD = re.compile(
    rb'\{"kind":"AdmissionReview","apiVersion":"admission\.k8s\.io/v1","request":\{"uid":"([^"\\]{1,253})"'
)
"""The beginning of a review that the API server sends."""

logger = logging.getLogger(__name__)


class MalformedError(ValueError):
    """The request is not an admission review: no API server sent it."""


class UnknownNamespaceError(LookupError):
    """The watch has not brought the request's namespace yet; the message is its name."""


class UnseenError(LookupError):
    """The watch has not brought the Deployment in the state that the writing replica has seen."""


class UserInfo(BaseModel):
    username: str = ""
    groups: tuple[str, ...] = Field((), strict=False)


class AdmissionRequest(BaseModel):
    """The used fields of ``AdmissionRequest`` of admission.k8s.io/v1."""

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
    """The answer to a request. ``problems`` are the lines of a refusal."""

    patch: tuple[JsonObject, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code: int = 422
    """HTTP status of a refusal; the API server returns it to its client."""
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
    """Answer one AdmissionReview; also returns the decision, a label for metrics.

    Raises :class:`MalformedError`, and :class:`UnknownNamespaceError` and :class:`UnseenError` where ``reviewer`` does.
    """
    try:
        document = parsing.parse(body)
    except JsonError as error:
        if (head := _HEAD.match(body)) is None:
            raise MalformedError(str(error)) from None
        # Where a webhook fails open, an error or a time-out would admit the object.
        answer = AdmissionResponse(problems=(str(diagnostic("InvalidObject", "metadata", why=error)),))
        return json.dumps(_response(head[1].decode(errors="replace"), answer)).encode(), answer.decision
    try:
        request = AdmissionReview.model_validate(document).request
    except ValidationError as error:
        # Only the paths are repeated: an unknown client chose the values.
        places = ", ".join(field_path(*fault["loc"]) or "the document" for fault in error.errors()[:5])
        raise MalformedError(f"not an AdmissionReview of {API_VERSION}: {places}") from None
    try:
        answer = reviewer(request)
    except (UnknownNamespaceError, UnseenError):
        raise
    except Exception:  # the API server gets an answer, not a time-out
        logger.exception("Reviewing %s %s/%s failed.", request.operation, request.namespace, request.name)
        text = "Internal: kubectl-serve failed on this object; see its log."
        answer = AdmissionResponse(problems=(text,), code=500, reason="InternalError")
    return json.dumps(_response(request.uid, answer)).encode(), answer.decision


def mutate(request: AdmissionRequest, context: ClusterContext) -> AdmissionResponse:
    """Complete, restore or refuse a Deployment."""
    if request.new is None or _exempt(request):
        return AdmissionResponse()
    verdict = judge(request.new, context, request.old)
    if verdict.refused or verdict.deployment is None:
        return AdmissionResponse(problems=lines(verdict.problems))
    patch = tuple(json_patch(request.new, verdict.deployment))
    answer = AdmissionResponse(patch=patch, warnings=shortened(verdict.warnings))
    if len(patch) > MAX_OPERATIONS or len(answer.encoded_patch) > MAX_PATCH_BYTES:
        why = f"the patch has more than {MAX_OPERATIONS:,} operations or {MAX_PATCH_BYTES // 2**20} MiB"
        return AdmissionResponse(problems=(str(diagnostic("TooLarge", "metadata", why=why)),))
    return answer


def scale(request: AdmissionRequest, deployment: JsonObject | None) -> AdmissionResponse:
    """Refuse to scale a parked Deployment. ``deployment``: the scaled one, if it is a served one."""
    if request.new is None or _exempt(request) or deployment is None or not is_parked(deployment):
        return AdmissionResponse()
    wanted = request.new.get("spec")
    if not isinstance(wanted, dict) or not wanted.get("replicas"):
        return AdmissionResponse()
    return AdmissionResponse(problems=(str(diagnostic("Parked", "spec.replicas")),), code=403, reason="Forbidden")


def pod(request: AdmissionRequest) -> AdmissionResponse:
    """Give queue-proxy a startup probe. Never refuses a pod."""
    return AdmissionResponse(patch=tuple(queue_proxy.startup_probe_patch(request.new or {})))


def is_parked(deployment: JsonObject) -> bool:
    """Whether Knative runs this Deployment's pods: it has the annotation, and admission has completed it."""
    workload = Workload(deployment)
    return MODEL in workload.annotations and SERVED_LABEL in workload.labels


def _exempt(request: AdmissionRequest) -> bool:
    """Writes of the server itself are not completed again, and a deletion only removes finalizers."""
    metadata = (request.new or {}).get("metadata")
    is_deleting = isinstance(metadata, dict) and bool(metadata.get("deletionTimestamp"))
    return request.user.username == SERVER_USERNAME or is_deleting or request.operation not in ("CREATE", "UPDATE")


def _response(uid: str, answer: AdmissionResponse) -> JsonObject:
    response: JsonObject = {"uid": uid, "allowed": not answer.problems}
    if answer.problems:
        response["status"] = {
            "status": "Failure",
            "code": answer.code,
            "reason": answer.reason,
            "message": "\n".join(_bounded_lines(answer.problems)),
        }
    elif answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(answer.encoded_patch).decode()
    if answer.warnings:
        response["warnings"] = list(answer.warnings)
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _bounded_lines(problems: tuple[str, ...]) -> Iterator[str]:
    """The lines of a refusal, limited. The number of further problems is unknown: the core does not search for them."""
    length = 0
    for number, line in enumerate(problems):
        length += len(line)
        if number >= MAX_PROBLEMS or (number and length > MAX_MESSAGE):
            yield "and more like these"
            return
        yield line


def lines(problems: Iterable[Diagnostic]) -> tuple[str, ...]:
    """Problems as texts, at most :data:`MAX_PROBLEMS`."""
    return tuple(map(str, capped(problems)))


def shortened(warnings: Iterable[Diagnostic]) -> tuple[str, ...]:
    """Warnings as texts, each cut to what the API server passes on."""
    return tuple(text if len(text) <= MAX_WARNING else text[: MAX_WARNING - 1] + "…" for text in lines(warnings))
