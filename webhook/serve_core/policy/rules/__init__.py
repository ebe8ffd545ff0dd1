"""The rules of policies. Each module has one: its fields in the CRD, its check, its reasons, and what it applies to.

A new rule is a module here and a field of :class:`Rule`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, get_args, get_type_hints

from pydantic.alias_generators import to_camel

from serve_core.api.schema import doc, schema_of
from serve_core.base.reasons import Reason
from serve_core.policy.check import Check
from serve_core.policy.field_types import DNS, Action
from serve_core.policy.rules.auth import AuthCheck
from serve_core.policy.rules.containers import ContainersCheck
from serve_core.policy.rules.expression import ExpressionCheck
from serve_core.policy.rules.formats import FormatsCheck
from serve_core.policy.rules.images import ImagesCheck
from serve_core.policy.rules.label import LabelCheck
from serve_core.policy.rules.mesh import MeshCheck
from serve_core.policy.rules.mode import ModeCheck
from serve_core.policy.rules.pinned import PinnedCheck
from serve_core.policy.rules.protocols import ProtocolsCheck
from serve_core.policy.rules.resources import ResourcesCheck
from serve_core.policy.rules.runtimes import RuntimesCheck
from serve_core.policy.rules.scale import ScaleCheck
from serve_core.policy.rules.secrets import SecretsCheck
from serve_core.policy.rules.service_accounts import ServiceAccountsCheck
from serve_core.policy.rules.signed import SignedCheck
from serve_core.policy.rules.sources import SourcesCheck
from serve_core.policy.rules.visibility import VisibilityCheck


@dataclass(frozen=True)
class _Named:
    name: Annotated[str, doc("Unique in its policy.", min_length=1, max_length=63, pattern=DNS)]
    action: Annotated[Action | None, doc("What a finding does. Default: the policy's action.")] = None
    hint: Annotated[
        str | None, doc("What users can do about a finding, instead of the default hint.", max_length=512)
    ] = None


@dataclass(frozen=True)
class _Checks:
    """One field for each kind of rule, in the order in which the CRD lists them."""

    sources: SourcesCheck | None = None
    pinned: PinnedCheck | None = None
    signed: SignedCheck | None = None
    formats: FormatsCheck | None = None
    runtimes: RuntimesCheck | None = None
    protocols: ProtocolsCheck | None = None
    images: ImagesCheck | None = None
    resources: ResourcesCheck | None = None
    scale: ScaleCheck | None = None
    mesh: MeshCheck | None = None
    auth: AuthCheck | None = None
    visibility: VisibilityCheck | None = None
    mode: ModeCheck | None = None
    service_accounts: ServiceAccountsCheck | None = None
    secrets: SecretsCheck | None = None
    containers: ContainersCheck | None = None
    label: LabelCheck | None = None
    expression: ExpressionCheck | None = None


CHECKS: Mapping[str, type[Check]] = {name: get_args(hint)[0] for name, hint in get_type_hints(_Checks).items()}
"""The class of each field that a rule can have."""
REASONS: tuple[Reason, ...] = tuple(dict.fromkeys(reason for check in CHECKS.values() for reason in check.reasons))
"""Every reason that rules give, in their order."""


@schema_of(
    (
        f"[{', '.join(f'has(self.{to_camel(name)})' for name in CHECKS)}].exists_one(is, is)",
        "a rule is about exactly one thing",
    )
)
@dataclass(frozen=True)
class Rule(_Checks, _Named):  # a dataclass takes the fields of its last base first
    """One rule: a name, and exactly one field with what it checks."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """The fields of ``CHECKS`` that are set, by name; exactly one in a policy that was read."""
        return {name: check for name in CHECKS if (check := getattr(self, name)) is not None}

    @cached_property
    def check(self) -> Check:
        """The one of :attr:`checks`."""
        return next(iter(self.checks.values()))
