"""The result of a check."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CheckResult:
    check: str
    verdict: Status
    reason: str
    fix: str = ""
    """A command, or a sentence where there is no command."""


def ok(check: str, reason: str) -> CheckResult:
    return CheckResult(check, Status.OK, reason)


def warning(check: str, reason: str, fix: str) -> CheckResult:
    return CheckResult(check, Status.WARNING, reason, fix)


def failed(check: str, reason: str, fix: str) -> CheckResult:
    return CheckResult(check, Status.FAILED, reason, fix)


def skipped(check: str, reason: str) -> CheckResult:
    return CheckResult(check, Status.SKIPPED, reason)


def unseen(check: str, what: str) -> CheckResult:
    return skipped(check, f"you are not allowed to see {what}.")
