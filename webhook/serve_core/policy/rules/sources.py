"""Rule ``sources``: where models may come from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import model_uri
from model_uri import Place, URIError, naming, parse_place
from serve_core.api.schema import SET, doc, keyed, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy import stores
from serve_core.policy.check import Check, finding, unreadable
from serve_core.policy.field_types import StoreAt, Uri
from serve_core.policy.names import allowed
from serve_core.policy.provenance import (
    SOURCE_NOT_FIXED,
    SOURCE_UNKNOWN,
    not_fixed_findings,
    unknown_findings,
)
from serve_core.policy.subject import Origin, Subject

_NOT_ALLOWED = finding("SourceNotAllowed", "{by} does not allow models from {source}.", "{allowed}")
_UNREADABLE = finding(
    "SourceUnreadable", "{by} cannot determine the location of {source}: {why}.", "Write a valid URI."
)


@schema_of()
@dataclass(frozen=True)
class SourcesCheck(Check):
    """Where models may come from: s3://BUCKET/PATH, https://*.HOST/PATH, pvc://*, ... and everything below."""

    reads = ("origins", "stores")
    reasons = (_NOT_ALLOWED, SOURCE_UNKNOWN, SOURCE_NOT_FIXED, _UNREADABLE)

    allow: Annotated[
        tuple[Uri, ...], doc("Only from these places. Empty: from everywhere.", max_length=256, json_schema_extra=SET)
    ] = ()
    deny: Annotated[
        tuple[Uri, ...],
        doc(
            "Never from these places, under any of their names. Takes precedence over allow.",
            max_length=256,
            json_schema_extra=SET,
        ),
    ] = ()
    stores: Annotated[
        tuple[StoreAt, ...],
        doc(
            "Endpoints of places. An allowed place without an entry leads to its scheme's public endpoint.",
            max_length=64,
            json_schema_extra=keyed("place"),
        ),
    ] = ()

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        allow = [parse_place(text) for text in self.allow]
        deny = [parse_place(text) for text in self.deny]
        own = tuple(stores.of_rule(self))
        reported, placed = set[str](), set[str]()
        yield from unknown_findings(subject, by)
        for origin in subject.origins:
            if origin.text in reported or (origin.unknown and "://" not in origin.text):
                continue
            found = [] if origin.text in placed else self._misplaced(origin, subject, by, allow, deny)
            placed.add(origin.text)
            found = found or list(not_fixed_findings(origin, subject, by, own, bool(allow)))
            if found:
                reported.add(origin.text)
            yield from found

    def _misplaced(
        self, origin: Origin, subject: Subject, by: str, allow: Sequence[Place], deny: Sequence[Place]
    ) -> list[Diagnostic]:
        try:
            source = model_uri.parse(origin.text)
        except URIError as error:
            shown = quote(model_uri.without_secrets(origin.text))
            return [diagnostic(_UNREADABLE, origin.path, by=by, source=shown, why=error)]
        names = naming.names(*stores.names_of(source, subject.stores)) if deny else ()
        denied = any(place.names_any(names) for place in deny)
        if not denied and (not allow or any(place.allows(source) for place in allow)):
            return []
        hint = allowed(self.allow, "Use another source.")
        if source.is_proposal:
            hint += " Anyone can open a pull request: use a branch, a tag or a commit of the model's repository."
        return [diagnostic(_NOT_ALLOWED, origin.path, by=by, source=source, allowed=hint)]

    def faults(self) -> Iterable[tuple[str, str]]:
        yield from unreadable([("allow", text) for text in self.allow], parse_place)
        yield from unreadable([("deny", text) for text in self.deny], parse_place)
        for each in self.stores:
            try:
                _ = each.store
            except ValueError as error:
                yield "stores", f"{quote(each.place)}: {error}"
