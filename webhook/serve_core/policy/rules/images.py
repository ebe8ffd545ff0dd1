"""Rule ``images``: which images containers and volumes have."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from serve_core.api.schema import SET, doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding, unreadable
from serve_core.policy.field_types import Uri
from serve_core.policy.names import allowed
from serve_core.policy.subject import Subject
from serve_core.syntax import image_reference

_NOT_ALLOWED = finding("ImageNotAllowed", "{by} does not allow image {image}.", "{allowed}")
_NOT_PINNED = finding("ImageNotPinned", "{by} requires a digest for image {image}.", "Add its digest: NAME@sha256:...")
_UNREADABLE = finding(
    "ImageUnreadable",
    "{by} cannot parse the image reference {image}.",
    "Write it as HOST/PATH:TAG or HOST/PATH@DIGEST.",
)


@schema_of()
@dataclass(frozen=True)
class ImagesCheck(Check):
    """Images of all containers and volumes. The loader's own image is always allowed."""

    reads = ("images",)
    reasons = (_NOT_ALLOWED, _NOT_PINNED, _UNREADABLE)

    allow: Annotated[
        tuple[Uri, ...],
        doc("Registries with or without a path, for example ghcr.io/kserve.", max_length=256, json_schema_extra=SET),
    ] = ()
    deny: Annotated[tuple[Uri, ...], doc("Takes precedence over allow.", max_length=256, json_schema_extra=SET)] = ()
    digest: Annotated[bool, doc("Whether each image must have a digest.")] = False

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        allow = [image_reference.parse_repository(text) for text in self.allow]
        deny = [image_reference.parse_repository(text) for text in self.deny]
        for use in subject.images:
            shown = quote(use.image)
            try:
                image = image_reference.parse(use.image)
            except ValueError:
                yield diagnostic(_UNREADABLE, use.path, by=by, image=shown)
                continue
            denied = any(image_reference.is_below(image, repository) for repository in deny)
            if denied or (allow and not any(image_reference.is_below(image, repository) for repository in allow)):
                hint = f"{allowed(self.allow, 'Use another image.')} {use.note}".rstrip()
                yield diagnostic(_NOT_ALLOWED, use.path, by=by, image=shown, allowed=hint)
            elif self.digest and image.digest is None:
                yield diagnostic(_NOT_PINNED, use.path, by=by, image=shown)

    def faults(self) -> Iterable[tuple[str, str]]:
        yield from unreadable([("allow", text) for text in self.allow], image_reference.parse_repository)
        yield from unreadable([("deny", text) for text in self.deny], image_reference.parse_repository)
