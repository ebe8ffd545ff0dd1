"""What a check finds."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: Verdict
    reason: str
    fix: str = ""
    """A command, or a sentence where no command would do."""


def ok(check: str, reason: str) -> Finding:
    return Finding(check, Verdict.OK, reason)


def warning(check: str, reason: str, fix: str) -> Finding:
    return Finding(check, Verdict.WARNING, reason, fix)


def failed(check: str, reason: str, fix: str) -> Finding:
    return Finding(check, Verdict.FAILED, reason, fix)


def skipped(check: str, reason: str) -> Finding:
    return Finding(check, Verdict.SKIPPED, reason)


def unseen(check: str, what: str) -> Finding:
    return skipped(check, f"you may not see {what}.")
