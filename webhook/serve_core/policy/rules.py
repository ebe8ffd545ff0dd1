"""What each kind of rule finds wrong with a subject. What cannot be compared is a finding."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

import model_uri
from model_uri import ModelURI, Place, Store, URIError, find, naming, parse_place
from serve_core.api import expressions
from serve_core.api.annotations import CUSTOM, FORMAT, SCALE, path_of
from serve_core.api.policies import (
    Auth,
    Container,
    Expression,
    Images,
    Label,
    Names,
    Pinned,
    Places,
    Resources,
    Rule,
    ScaleBounds,
    Signed,
)
from serve_core.base.reasons import MOST_PROBLEMS, Diagnostic, diagnostic, quote
from serve_core.policy.origins import Origin
from serve_core.policy.subjects import PodUse, ReplicaBounds, Subject, Use, plain_word
from serve_core.syntax import image_reference, quantity
from serve_core.syntax.glob import matches, may_begin
from serve_core.workload import stores

_OF_THE_CLUSTER = frozenset({"pvc", "file"})
"""Schemes that lead nowhere outside."""
_FEWEST_SHOWN = 12
"""Names that a hint lists."""


def findings(rule: Rule, subject: Subject, by: str, most: int = MOST_PROBLEMS + 1) -> tuple[Diagnostic, ...]:
    """What ``rule`` finds wrong, ``most`` at most; ``by`` names the policy and the rule in the messages."""
    name, about = rule.about
    if subject.fault is not None:
        return (subject.fault,)
    found = tuple(dict.fromkeys(islice(_CHECKS[name](about, subject, by), most)))
    if rule.hint is not None:
        found = tuple(Diagnostic(finding.path, finding.code, finding.message, rule.hint) for finding in found)
    return tuple(sorted(found))


def _sources(about: Places, subject: Subject, by: str) -> Iterator[Diagnostic]:
    allow = [parse_place(text) for text in about.allow]
    deny = [parse_place(text) for text in about.deny]
    own = tuple(stores.of_rule(about))
    reported, placed = set[str](), set[str]()
    yield from _unknown(subject, by)
    for origin in subject.origins:
        if origin.text in reported or (origin.unknown and "://" not in origin.text):
            continue
        found = [] if origin.text in placed else _misplaced(origin, about, subject, by, allow, deny)
        placed.add(origin.text)
        found = found or list(_not_fixed(origin, subject, by, own, bool(allow)))
        if found:
            reported.add(origin.text)
        yield from found


def _misplaced(
    origin: Origin, about: Places, subject: Subject, by: str, allow: Sequence[Place], deny: Sequence[Place]
) -> list[Diagnostic]:
    try:
        source = model_uri.read(origin.text)
    except URIError as error:
        shown = quote(_without_secrets(origin.text))
        return [diagnostic("SourceUnreadable", origin.path, by=by, source=shown, why=error)]
    names = naming.names(*stores.names_of(source, subject.stores)) if deny else ()
    denied = any(place.names_any(names) for place in deny)
    if not denied and (not allow or any(place.allows(source) for place in allow)):
        return []
    hint = _allowed(about.allow, "Use another source.")
    if source.is_proposal:
        hint += " A pull request is anybody's: name a branch, a tag or a commit of the model's own."
    return [diagnostic("SourceNotAllowed", origin.path, by=by, source=source, allowed=hint)]


def _not_fixed(
    origin: Origin, subject: Subject, by: str, own: tuple[Store, ...] = (), always: bool = True
) -> Iterator[Diagnostic]:
    """Whether anything but the operator could say where a source leads.

    ``own``: the stores of the rule itself, which come before others. ``always``: also what none of these holds.
    """
    source = model_uri.read(origin.text)
    mine = find(source, own) is not None
    count = own if mine else subject.stores
    if origin.unknown or not origin.by_loader or source.scheme in _OF_THE_CLUSTER:
        return
    if not (always or mine) or stores.may_lead_anywhere(source, count):
        return
    wanted = stores.store_of(source, count)
    bound = origin.store
    if wanted is None:
        why, way_out = (
            "its user's Secret says where that leads",
            "Have the policy name its store, under sources.stores.",
        )
    elif bound is None:
        why = "what loads it may be led elsewhere by a Secret"
        way_out = "Apply it once more: kubectl-serve's loader is then bound. For other loaders, allow any endpoint."
    elif not bound.leads_as(wanted):
        why = f"the loader is bound to read it from {bound.endpoint or 'elsewhere'}"
        way_out = f"It is to come from {wanted.endpoint or 'the public store'}: apply it once more."
    elif origin.adrift:
        why, way_out = f"{origin.adrift} may lead that elsewhere", f"Take {origin.adrift} out of the pods."
    else:
        return
    yield diagnostic("SourceNotFixed", origin.path, by=by, source=source, why=why, way_out=way_out)


def _without_secrets(text: str) -> str:
    """A URI as it may be repeated: neither user and password nor a signed query."""
    head, separator, rest = text.partition("://")
    rest = rest.split("?", 1)[0].rpartition("@")[2]
    return head.split("?", 1)[0] + separator + rest


def _unknown(subject: Subject, by: str) -> list[Diagnostic]:
    """What nobody can tell the origin of; until that is mended, nothing else is known of the model."""
    unknown = [origin for origin in subject.origins if origin.unknown]
    return [diagnostic("SourceUnknown", origin.path, by=by, why=origin.unknown) for origin in unknown]


def _pinned(about: Pinned, subject: Subject, by: str) -> Iterator[Diagnostic]:
    unknown = _unknown(subject, by)
    yield from unknown
    seen: set[str] = set()
    for origin in () if unknown else subject.origins:
        by_digest = "digest" in about.by and origin.digest
        immutable = _immutable(origin.text) if "revision" in about.by else None
        if by_digest or origin.text in seen:
            continue
        if immutable is None:
            seen.add(origin.text)
            revision = ", or name a commit or digest in the URI" if "revision" in about.by else ""
            shown = quote(_without_secrets(origin.text))
            yield diagnostic("ModelNotPinned", origin.path, by=by, source=shown, revision=revision)
        elif not immutable.digest:
            # A digest is compared with what came; of a commit, only the hub itself knows what it is.
            yield from _not_fixed(origin, subject, by)


def _immutable(text: str) -> ModelURI | None:
    """What a URI names, if it is one version for ever."""
    try:
        uri = model_uri.read(text)
    except URIError:
        return None
    return uri if uri.is_immutable else None


def _signed(about: Signed, subject: Subject, by: str) -> Iterator[Diagnostic]:
    unknown = _unknown(subject, by)
    yield from unknown
    keys = "the name of a ConfigMap with a public key"
    if about.keys:
        keys = about.keys[0] if len(about.keys) == 1 else f"one of {_listed(about.keys)}"
    seen: set[str] = set()
    for origin in () if unknown else subject.origins:
        right = bool(origin.key) and (not about.keys or any(matches(origin.key, pattern) for pattern in about.keys))
        if not right and origin.text not in seen:
            seen.add(origin.text)
            shown = quote(_without_secrets(origin.text))
            yield diagnostic("ModelNotSigned", origin.path, by=by, source=shown, keys=keys)


def _formats(about: Names, subject: Subject, by: str) -> Iterator[Diagnostic]:
    if not subject.origins and not subject.formats:
        return
    runtime = subject.runtime
    if runtime is not None and runtime.why:
        yield diagnostic("FormatUnsure", runtime.path, by=by, why=runtime.why)
    elif runtime is not None and runtime.name != CUSTOM:
        for origin in subject.origins:
            if origin.unknown:
                yield diagnostic("FormatUnsure", origin.path, by=by, why=origin.unknown)
        told = [use.name for use in subject.formats]
        # It reads what it reads, whatever the file is called.
        if told and runtime.formats and not set(told) & set(runtime.formats):
            words = {"format": quote(told[0]), "runtime": runtime.name, "served": _listed(runtime.formats)}
            yield diagnostic("FormatNotServed", subject.formats[0].path, by=by, **words)
    if not subject.formats and subject.kind != "Pod":
        yield diagnostic("FormatUntold", path_of(FORMAT), by=by)
    for use in subject.formats:
        if not _permits(about, use.name):
            hint = _allowed(about.allow, "Use another format.")
            yield diagnostic("FormatNotAllowed", use.path, by=by, format=quote(use.name), allowed=hint)


def _runtimes(about: Names, subject: Subject, by: str) -> Iterator[Diagnostic]:
    use = subject.runtime
    if use is None:
        return
    # A denial holds for what is made of a runtime, too; a permission for the runtime alone.
    denied = [name for name in (use.name, *use.based_on) if any(matches(name, pattern) for pattern in about.deny)]
    if denied or not _permits(about, use.name):
        mend = f" It is custom since {use.why}: take that out." if use.why else ""
        hint = _allowed(about.allow, "Use another runtime.") + mend
        name = quote((denied or [use.name])[0])
        yield diagnostic("RuntimeNotAllowed", use.path, by=by, runtime=name, allowed=hint)


def _images(about: Images, subject: Subject, by: str) -> Iterator[Diagnostic]:
    allow = [image_reference.parse_repository(text) for text in about.allow]
    deny = [image_reference.parse_repository(text) for text in about.deny]
    for use in subject.images:
        shown = quote(use.image)
        try:
            image = image_reference.parse(use.image)
        except ValueError:
            yield diagnostic("ImageUnreadable", use.path, by=by, image=shown)
            continue
        denied = any(image_reference.is_below(image, repository) for repository in deny)
        if denied or (allow and not any(image_reference.is_below(image, repository) for repository in allow)):
            hint = f"{_allowed(about.allow, 'Use another image.')} {use.note}".rstrip()
            yield diagnostic("ImageNotAllowed", use.path, by=by, image=shown, allowed=hint)
        elif about.digest and image.digest is None:
            yield diagnostic("ImageNotPinned", use.path, by=by, image=shown)


_OF_THE_NODE = re.compile(r"cpu|memory|ephemeral-storage|pods|hugepages-.*", re.DOTALL)
"""Resources that are no devices."""
_CLASS_RESOURCE = "deviceclass.resource.kubernetes.io/"
"""A device by its class: dynamic resource allocation under the name of a resource (Kubernetes 1.34)."""


_MOST_AMOUNTS = 1000
"""Amounts and containers of an object that are counted."""


def _resources(about: Resources, subject: Subject, by: str) -> Iterator[Diagnostic]:
    asked = sum(len(pod.amounts) + sum(1 + len(use.amounts) for use in pod.containers) for pod in subject.pods)
    if asked > _MOST_AMOUNTS:
        why = f"it asks for more than {_MOST_AMOUNTS} amounts"
        yield _unbounded("spec", "resources", by, "per replica", why, "Ask for fewer.")
        return
    for bounds, times in ((about.per_replica, None), (about.total, subject.scale)):
        of_one = bounds is about.per_replica
        if of_one or times is not None:
            for resource, most in bounds.items():
                yield from _amount(resource, most, subject, by, times)
        elif subject.kind == "ServingRuntime":
            yield from _brought(bounds, subject, by)
        else:
            continue
        yield from _other_names(bounds, subject, by, "per replica" if of_one else "for all replicas")


def _brought(bounds: Mapping[str, str | int], subject: Subject, by: str) -> Iterator[Diagnostic]:
    """Devices that a runtime of KServe's brings to whatever uses it, however many replicas that has."""
    for resource in bounds:
        for pod in () if _OF_THE_NODE.fullmatch(resource) else subject.pods:
            amount, faults = _of_pod(pod, resource)
            if amount or faults:
                why, way_out = "what uses it says how many replicas there are", "Ask for it in the InferenceService."
                yield _unbounded(f"{pod.path}.containers", resource, by, "for all replicas", why, way_out)


def _other_names(bounds: Mapping[str, object], subject: Subject, by: str, per: str) -> Iterator[Diagnostic]:
    """Devices of a maker whose devices are bounded, under names that are not: a part of a GPU is one as well."""
    makers = {key.partition("/")[0]: key for key in bounds if "/" in key}
    for pod in subject.pods:
        for owner, path in (*((use.amounts, use.path) for use in pod.containers), (pod.amounts, pod.path)):
            for name in owner:
                made_by, slash, _ = name.partition("/")
                if slash and made_by in makers and not any(matches(name, key) for key in bounds):
                    known = makers[made_by]
                    why = f"{quote(name)} may be the same or a part of it"
                    yield _unbounded(f"{path}.resources", known, by, per, why, f"Ask for {known} instead.")


def _amount(
    resource: str, most: str | int, subject: Subject, by: str, times: ReplicaBounds | None
) -> Iterator[Diagnostic]:
    per = "per replica" if times is None else "for all replicas"
    wanted, unbounded = Fraction(0), []
    for pod in subject.pods:
        amount, faults = _of_pod(pod, resource)
        unbounded += faults
        if pod.times is None and amount:
            why = "it does not say how many of these pods there are"
            unbounded.append((f"{pod.path}.pipelineParallelSize", why, "Say it here."))
        wanted += amount * (pod.times or 0)
    for path, why, way_out in unbounded:
        yield _unbounded(path, resource, by, per, why, way_out)
    if unbounded:
        return
    shown = ""
    if times is not None:
        if times.at_once is None and wanted:
            why = "there is no upper bound of replicas"
            yield _unbounded(times.path, resource, by, per, why, _rescale(times.path))
            return
        wanted *= times.at_once or 0
        if times.beside:
            shown = f" ({times.most} replicas, and {times.beside} that can run beside them)"
    if wanted > quantity.parse(most):
        at = "spec" if times is None else times.path
        words = {"most": str(most), "resource": resource, "per": per, "wanted": quantity.text(wanted) + shown}
        yield diagnostic("ResourceExceeded", at, by=by, **words)


_Fault = tuple[str, str, str]
"""Where something cannot be counted, why, and the way out."""


def _of_pod(pod: PodUse, resource: str) -> tuple[Fraction, list[_Fault]]:
    """What a pod takes of the resources with that name, as Kubernetes counts it, and what cannot be counted."""
    faults: list[_Fault] = []
    limit, plainly = f"Set a limit of {resource}.", "Ask for the device as a resource."

    def asked(amounts: Mapping[str, object], path: str, whose: str) -> Fraction:
        total = Fraction(0)
        for name, written in amounts.items():
            if matches(name, resource):
                try:
                    amount = quantity.parse(written)
                except ValueError:
                    amount = Fraction(-1)
                if amount < 0:
                    faults.append((path, f"{whose}: {quote(written)} is not a quantity", limit))
                else:
                    total += amount
            elif name.startswith(_CLASS_RESOURCE) and not _OF_THE_NODE.fullmatch(resource):
                faults.append((path, f"{whose}: what {quote(name)} brings is not to be seen", plainly))
        return total

    # Sidecars run on; what runs before the others needs its share for a while only, beside the sidecars before it.
    running, before = Fraction(0), Fraction(0)
    for use in pod.containers:
        path, whose = f"{use.path}.resources", f"container {use.name}"
        if resource in ("cpu", "memory") and resource not in use.amounts:
            faults.append((path, f"{whose}: it has neither a limit nor a request", limit))
        amount = asked(use.amounts, path, whose)
        running, before = (running + amount, before) if use.side else (running, max(before, running + amount))
    whole = asked(pod.amounts, f"{pod.path}.resources", "the pod")
    overhead = asked(pod.overhead, f"{pod.path}.overhead", "the pod")
    if not _OF_THE_NODE.fullmatch(resource):
        faults += [(path, "what a claim of a device brings is not to be seen", plainly) for path in pod.claims]
    return max(running, before, whole) + overhead, faults


def _unbounded(path: str, resource: str, by: str, per: str, why: str, way_out: str) -> Diagnostic:
    return diagnostic("ResourceUnbounded", path, by=by, resource=resource, per=per, why=why, way_out=way_out)


def _scale(about: ScaleBounds, subject: Subject, by: str) -> Iterator[Diagnostic]:
    scale = subject.scale
    if scale is None:
        return
    wants = []
    if about.most is not None and (scale.most is None or scale.most > about.most):
        wants.append((f"at most {about.most}", scale.path))
    if about.least is not None and scale.least < about.least:
        wants.append((f"at least {about.least}", scale.least_path))
    if about.to_zero == "Required" and scale.least > 0:
        wants.append(("down to 0", scale.least_path))
    if about.to_zero == "Forbidden" and scale.least == 0:
        wants.append(("at least 1", scale.least_path))
    for wanted, path in dict.fromkeys(wants):
        words = {"wanted": wanted, "scale": quote(scale), "way_out": _rescale(path)}
        yield diagnostic("ScaleNotAllowed", path, by=by, **words)


def _rescale(path: str) -> str:
    return "Set kubectl-serve.dev/scale." if path == path_of(SCALE) else f"Set {path}."


def _value(name: str) -> Callable[[Names, Subject, str], Iterator[Diagnostic]]:
    """A rule on one value that a subject has or does not say."""

    def check(about: Names, subject: Subject, by: str) -> Iterator[Diagnostic]:
        use: Use | None = getattr(subject, name)
        if use is not None and not _permits(about, use.name):
            hint = _allowed(about.allow, f"Use another {name}.")
            yield diagnostic("ValueNotAllowed", use.path, by=by, what=name, value=quote(use.name), allowed=hint)

    return check


def _of_sidecar(name: str) -> Callable[[Names, Subject, str], Iterator[Diagnostic]]:
    """A rule on what the sidecar enforces: who has to have one must have no way past it."""
    on_value = _value(name)

    def check(about: Names, subject: Subject, by: str) -> Iterator[Diagnostic]:
        found = tuple(on_value(about, subject, by))
        yield from found
        if not found and not _permits(about, "none"):
            for use in subject.past_sidecar:
                yield diagnostic("SidecarNotKept", use.path, by=by, what=use.name)

    return check


def _auth(about: Auth, subject: Subject, by: str) -> Iterator[Diagnostic]:
    if subject.kind != "Pod":  # who may call stands on what it was made of
        yield from _of_sidecar("auth")(about, subject, by)
    for use in subject.issuers if about.issuers else ():
        if not any(f"{use.name}/".startswith(f"{place.rstrip('/')}/") for place in about.issuers):
            hint = _allowed(about.issuers, "")
            yield diagnostic("ValueNotAllowed", use.path, by=by, what="issuer", value=quote(use.name), allowed=hint)


def _service_accounts(about: Names, subject: Subject, by: str) -> Iterator[Diagnostic]:
    for use in subject.service_accounts:
        if not _permits(about, use.name):
            hint = _allowed(about.allow, "Use another service account.")
            yield diagnostic("ServiceAccountNotAllowed", use.path, by=by, name=quote(use.name), allowed=hint)


def _secrets(about: Names, subject: Subject, by: str) -> Iterator[Diagnostic]:
    for use in subject.secrets:
        if not _permits(about, use.name):
            hint = _allowed(about.allow, "Use another Secret.")
            yield diagnostic("SecretNotAllowed", use.path, by=by, name=quote(use.name), allowed=hint)


def _containers(about: Container, subject: Subject, by: str) -> Iterator[Diagnostic]:
    for use in subject.containers:
        container = quote(use.name)
        for name in use.variables:
            if any(matches(name, pattern) for pattern in about.variables):
                yield diagnostic("VariableNotAllowed", f"{use.path}.env", by=by, name=quote(name), container=container)
        for source in use.taken_in:
            if any(may_begin(pattern, source.name) for pattern in about.variables):
                yield diagnostic("VariablesUnseen", source.path, by=by, container=container)
        words = use.words if about.arguments else frozenset()
        for argument in about.arguments:
            if plain_word(argument) in words:
                yield diagnostic("ArgumentNotAllowed", use.path, by=by, argument=quote(argument), container=container)
        for variable in use.unseen if about.arguments else ():
            yield diagnostic("ArgumentUnseen", variable.path, by=by, name=quote(variable.name), container=container)


def _label(about: Label, subject: Subject, by: str) -> Iterator[Diagnostic]:
    value = subject.labels.get(about.key)
    if value is None or (about.values and value not in about.values):
        wanted = f"one of {_listed(about.values)}" if about.values else "set"
        shown = "missing" if value is None else quote(value)
        at = f"metadata.labels[{about.key}]"
        yield diagnostic("LabelNotAllowed", at, by=by, key=about.key, values=wanted, value=shown)


def _expression(about: Expression, subject: Subject, by: str) -> Iterator[Diagnostic]:
    try:
        holds = expressions.holds(about.cel, subject.values)
    except ValueError as error:
        yield diagnostic("ExpressionFailed", "metadata.name", by=by, why=error)
        return
    if not holds:
        yield diagnostic("ExpressionFalse", "metadata.name", by=by, message=about.message.rstrip("."))


_CHECKS: dict[str, Callable[[Any, Subject, str], Iterable[Diagnostic]]] = {
    "sources": _sources,
    "pinned": _pinned,
    "signed": _signed,
    "formats": _formats,
    "runtimes": _runtimes,
    "protocols": _value("protocol"),
    "images": _images,
    "resources": _resources,
    "scale": _scale,
    "mesh": _of_sidecar("mesh"),
    "auth": _auth,
    "visibility": _value("visibility"),
    "mode": _value("mode"),
    "service_accounts": _service_accounts,
    "secrets": _secrets,
    "containers": _containers,
    "label": _label,
    "expression": _expression,
}


def _permits(about: Names, name: str) -> bool:
    if any(matches(name, pattern) for pattern in about.deny):
        return False
    return not about.allow or any(matches(name, pattern) for pattern in about.allow)


def _allowed(names: tuple[str, ...], otherwise: str) -> str:
    return f"Allowed: {_listed(names)}." if names else otherwise


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - _FEWEST_SHOWN
    return ", ".join(names[:_FEWEST_SHOWN]) + (f" and {more} more" if more > 0 else "")
