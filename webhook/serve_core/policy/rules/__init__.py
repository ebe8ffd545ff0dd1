"""The rules of policies. Each module has one: its fields in the CRD, its check, its reasons, and what it applies to.

A new rule is a module here and a field of :class:`Rule`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, get_args, get_type_hints

from pydantic.alias_generators import to_camel

from serve_core.base.reasons import Reason
from serve_core.policy.check import Check
from serve_core.policy.rules.auth import Auth
from serve_core.policy.rules.containers import Containers
from serve_core.policy.rules.expression import Expression
from serve_core.policy.rules.formats import Formats
from serve_core.policy.rules.images import Images
from serve_core.policy.rules.label import Label
from serve_core.policy.rules.mesh import Mesh
from serve_core.policy.rules.mode import Mode
from serve_core.policy.rules.pinned import Pinned
from serve_core.policy.rules.protocols import Protocols
from serve_core.policy.rules.resources import Resources
from serve_core.policy.rules.runtimes import Runtimes
from serve_core.policy.rules.scale import Scale
from serve_core.policy.rules.secrets import Secrets
from serve_core.policy.rules.service_accounts import ServiceAccounts
from serve_core.policy.rules.signed import Signed
from serve_core.policy.rules.sources import Sources
from serve_core.policy.rules.visibility import Visibility
from serve_core.policy.schema import DNS, Action, doc, schema_of


@dataclass(frozen=True)
class _Named:
    name: Annotated[str, doc("Unique in its policy.", min_length=1, max_length=63, pattern=DNS)]
    action: Annotated[Action | None, doc("Instead of the policy's.")] = None
    hint: Annotated[str | None, doc("What to do about a finding, instead of the usual hint.", max_length=512)] = None


@dataclass(frozen=True)
class _Checks:
    """One field for each kind of rule, in the order in which the CRD lists them."""

    sources: Sources | None = None
    pinned: Pinned | None = None
    signed: Signed | None = None
    formats: Formats | None = None
    runtimes: Runtimes | None = None
    protocols: Protocols | None = None
    images: Images | None = None
    resources: Resources | None = None
    scale: Scale | None = None
    mesh: Mesh | None = None
    auth: Auth | None = None
    visibility: Visibility | None = None
    mode: Mode | None = None
    service_accounts: ServiceAccounts | None = None
    secrets: Secrets | None = None
    containers: Containers | None = None
    label: Label | None = None
    expression: Expression | None = None


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
    """One rule: a name and exactly one thing that it is about."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """The fields of ``CHECKS`` that are set, by name; exactly one in a policy that was read."""
        return {name: check for name in CHECKS if (check := getattr(self, name)) is not None}

    @cached_property
    def check(self) -> Check:
        """The one of :attr:`checks`."""
        return next(iter(self.checks.values()))
