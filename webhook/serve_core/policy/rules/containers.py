"""Rule ``containers``: which variables and arguments containers must not have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from serve_core.api.schema import SET, doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding
from serve_core.policy.field_types import Text
from serve_core.policy.subject import ContainerUse, Subject, plain_word
from serve_core.syntax.glob import matches, may_begin

_VARIABLE_NOT_ALLOWED = finding(
    "VariableNotAllowed", "{by} does not allow environment variable {name} of container {container}.", "Remove it."
)
_VARIABLES_UNSEEN = finding(
    "VariablesUnseen",
    "{by} checks the names of environment variables, and cannot see those that container {container} gets from here.",
    "List them under env, or give them a prefix.",
)
_ARGUMENT_NOT_ALLOWED = finding(
    "ArgumentNotAllowed", "{by} does not allow argument {argument} of container {container}.", "Remove it."
)
_ARGUMENT_UNSEEN = finding(
    "ArgumentUnseen",
    "{by} checks arguments, and cannot see the value of {name}, which container {container} expands in them.",
    "Write the value instead of the variable.",
)


@schema_of()
@dataclass(frozen=True)
class ContainersCheck(Check):
    """Environment variables and arguments that containers must not have."""

    reads = ("containers",)
    reasons = (_VARIABLE_NOT_ALLOWED, _VARIABLES_UNSEEN, _ARGUMENT_NOT_ALLOWED, _ARGUMENT_UNSEEN)

    variables: Annotated[
        tuple[Text, ...],
        doc("Environment variables by name; * stands for any characters.", max_length=256, json_schema_extra=SET),
    ] = ()
    arguments: Annotated[
        tuple[Text, ...],
        doc(
            "Arguments, for example --trust-remote-code: in commands, arguments and values of variables.",
            max_length=256,
            json_schema_extra=SET,
        ),
    ] = ()

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        for use in subject.containers:
            yield from self._variable_findings(use, by)
            if self.arguments:
                yield from self._argument_findings(use, by)

    def _variable_findings(self, use: ContainerUse, by: str) -> Iterator[Diagnostic]:
        container = quote(use.name)
        for name in use.variables:
            if any(matches(name, pattern) for pattern in self.variables):
                yield diagnostic(_VARIABLE_NOT_ALLOWED, f"{use.path}.env", by=by, name=quote(name), container=container)
        for source in use.taken_in:
            if any(may_begin(pattern, source.name) for pattern in self.variables):
                yield diagnostic(_VARIABLES_UNSEEN, source.path, by=by, container=container)

    def _argument_findings(self, use: ContainerUse, by: str) -> Iterator[Diagnostic]:
        container = quote(use.name)
        for argument in self.arguments:
            if plain_word(argument) in use.words:
                yield diagnostic(_ARGUMENT_NOT_ALLOWED, use.path, by=by, argument=quote(argument), container=container)
        for variable in use.unseen:
            yield diagnostic(_ARGUMENT_UNSEEN, variable.path, by=by, name=quote(variable.name), container=container)
