"""Flags, each defined once and named as in kubectl."""

import argparse
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, NoReturn

from kubectl_serve import PROGRAM
from kubectl_serve.cli.verbs import BY_NAME, Verb
from kubectl_serve.errors import UsageError
from serve_core.base.reasons import meant
from serve_core.syntax import duration as durations
from serve_core.syntax import object_name

if TYPE_CHECKING:
    from pathlib import Path

    from model_uri.file_patterns import FilePatterns

_OF_KUBECTL = "kubectl's flags"
_OTHER_FLAGS = {
    "--replicas": "--scale", "--min-replicas": "--scale", "--max-replicas": "--scale", "--min-scale": "--scale",
    "--max-scale": "--scale", "--uri": "--model", "--url": "--model", "--storage-uri": "--model", "--path": "--model",
    "--secret": "--credentials", "--ns": "--namespace", "--file": "--filename", "--lines": "--tail",
    "--label": "--labels", "--revision": "--to", "--framework": "--format", "--server": "--runtime",
    "--traffic": "--canary", "--percent": "--canary", "--include": "--files",
    "--yaml": "--output", "--json": "--output",
}  # fmt: skip
"""Names of flags in other tools, and the flag here."""
_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
"""The values that Go's ``strconv.ParseBool`` accepts, and so kubectl, in lower case."""
_KINDS = ("deployment", "deployments", "deploy")


class Parser(argparse.ArgumentParser):
    """argparse with kubectl's conventions: own errors, ``--flag=true``, and flags between operands."""

    def __init__(self, verb: Verb, description: str = "", examples: str = "") -> None:
        super().__init__(
            prog=f"{PROGRAM} {verb.name}",
            usage=f"{PROGRAM} {verb.name} {verb.operands} [flags]".replace("  ", " "),
            description=description or verb.summary + ".",
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.verb = verb
        self.add_argument("-h", "--help", action="help", help="show this help")
        self._defaults_of_bare: dict[str, str] = {}

    def narrow(
        self, words: Sequence[str], meanings: Mapping[str, str], usages: Mapping[str, tuple[str, Collection[str]]]
    ) -> None:
        """Limit the help to the action of this verb among ``words``, if there is one.

        ``meanings``: by action. ``usages``: the operands and the flags (``dest``) of each. Only its examples are shown.
        """
        action = next((word for word in words if word in meanings), None)
        if action is None:
            return
        operands, flags = usages[action]
        meaning, example = meanings[action], f"{self.verb.name} {action}"
        self.usage = f"{PROGRAM} {example} {operands} [flags]".replace("  ", " ")
        self.description = f"{meaning[0].upper()}{meaning[1:]}."
        lines = (self.epilog or "").splitlines()
        self.epilog = "\n".join(line for line in lines if example in line or not line.startswith("  "))
        group = next((each for each in self._action_groups if each.title == _OF_KUBECTL), None)
        for each in self._actions:
            if each.dest not in flags and (group is None or each not in group._group_actions):
                each.help = argparse.SUPPRESS

    def format_help(self) -> str:
        """The help, with kubectl's own flags in one line: users of kubectl know them."""
        text = super().format_help()
        begin = text.find(f"\n{_OF_KUBECTL}:\n")
        if begin < 0:
            return text
        end = text.find("\n\n", begin + 1)
        rest = text[end + 1 :] if end >= 0 else ""
        line = f"{_OF_KUBECTL}, such as --context, work too: `kubectl options` lists them."
        return f"{text[:begin]}\n{line}\n{rest}"

    def error(self, message: str) -> NoReturn:
        """Raises argparse's error as a UsageError with a hint."""
        # argparse passes nothing but its text.
        usage = f"Usage: {self.usage}. `{PROGRAM} {self.verb.name} --help` shows the flags."
        if missing := re.fullmatch(r"the following arguments are required: (.+)", message):
            raise UsageError(f"{missing[1]} is missing.", usage)
        if found := re.fullmatch(r"argument (\S+): (.+)", message, re.DOTALL):
            name, why = found[1].rpartition("/")[2] if found[1].startswith("-") else found[1], found[2]
            if why == "expected one argument":
                raise UsageError(f"{name} needs a value.", usage)
            if wrong := re.fullmatch(r"invalid int value: '(.*)'", why):
                raise UsageError(f'{name} must be a whole number, not "{wrong[1]}".', f"Write {name} 20, say.")
            raise UsageError(f"{name}: {why}.", usage)
        raise UsageError(f"{message}.", usage)

    def switch(self, *names: str, help: str, default: bool = False) -> None:  # noqa: A002
        """A flag that is on or off: ``--flag``, ``--flag=true``, ``--flag=false``, and ``--no-flag`` where it is on."""
        long = next(name for name in names if name.startswith("--"))
        self.add_argument(*names, action="store_true", default=default, help=help)
        off = f"--no-{long[2:]}"
        off_help = f"the same as {long}=false" if default else argparse.SUPPRESS
        self.add_argument(off, dest=long[2:].replace("-", "_"), action="store_false", default=default, help=off_help)

    def optional_value(self, name: str, bare: str, **kwargs: object) -> None:
        """A flag with an optional value; without one, ``bare``. A value needs the equals sign, as in kubectl."""
        self._defaults_of_bare[name] = bare
        self.add_argument(name, **kwargs)  # type: ignore[arg-type]

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """A misspelt value: the nearest value comes before the list of all."""
        if action.choices is None or value in action.choices:
            return
        known = [str(each) for each in action.choices]
        what = action.option_strings[-1] if action.option_strings else str(action.metavar)
        raise UsageError(
            f'"{value}" is not a valid value for {what}.', f"{meant(str(value), known)}Use one of: {', '.join(known)}."
        )

    def _check_operands(self, words: Sequence[str]) -> None:
        """An extra operand is usually the value of a missing flag."""
        operands = [each for each in self._actions if not each.option_strings]
        most = math.inf if any(each.nargs == "*" for each in operands) else len(operands)
        given = list(self._operands(words))
        flags = self._option_string_actions
        is_source = any(each.dest == "source" for each in operands)
        for word in given if not is_source else []:
            if "--model" in flags and "://" in word:
                raise UsageError(f'"{word}" is a model URI, not a name.', f"Write --model {quote(word)}.")
        for word in given[int(most) :] if most < math.inf else []:
            if "--filename" in flags and (word == "-" or word.endswith((".yaml", ".yml", ".json", "/"))):
                raise UsageError(f'"{word}" is a file, and -f is missing.', f"Write -f {quote(word)}.")
            if "-f FILE" in self.verb.operands and not operands:
                raise UsageError(f'unexpected argument "{word}": {self.verb.name} reads files.', "Write -f FILE.")
            raise UsageError(f'unexpected argument "{word}".', f"Usage: {self.usage}. Quote a value that has spaces.")

    def _operands(self, words: Sequence[str]) -> Iterator[str]:
        """The arguments that are neither flags nor their values."""
        skip = False
        for index, word in enumerate(words):
            if word == "--":
                yield from words[index + 1 :]
                return
            action = self._option_string_actions.get(word)
            if skip:
                skip = False
            elif action is not None:
                skip = action.nargs is None
            elif not word.startswith("-") or word == "-":
                yield word

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``. Raises UsageError."""
        words: list[str] = []
        for index, word in enumerate(argv):
            if word == "--":
                words += argv[index:]
                break
            self._check_flag(word)
            words.append(self._plain(word))
        self._check_operands(words)
        return self.parse_intermixed_args(words)

    def _check_flag(self, word: str) -> None:
        """Report a misspelt flag before the required flag that is missing because of it."""
        flag = word.partition("=")[0] if word.startswith("--") else word[:2]
        if re.fullmatch(r"-[^-\d]|--.+", flag) and " " not in word and flag not in self._option_string_actions:
            import difflib

            near = difflib.get_close_matches(flag, self._option_string_actions, n=2, cutoff=0.75)
            other = _OTHER_FLAGS.get(flag, "")
            near = [other] if other in self._option_string_actions else near
            meant = f"Did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"unknown flag: {flag}.", f"{meant}`{PROGRAM} {self.verb.name} --help` shows the flags.")

    def _plain(self, word: str) -> str:
        if word in self._defaults_of_bare:
            return f"{word}={self._defaults_of_bare[word]}"
        name, separator, value = word.partition("=")
        action = self._option_string_actions.get(name)
        if isinstance(action, argparse._StoreTrueAction) and separator:
            truth = _TRUTHS.get(value.lower())
            if truth is None:
                raise UsageError(f'{name} must be true or false, not "{value}".', f"Write {name}=false.")
            return name if truth else f"--no-{self._long(action)[2:]}"
        return word

    @staticmethod
    def _long(action: argparse.Action) -> str:
        return next(name for name in action.option_strings if name.startswith("--"))


def connection(parser: Parser) -> None:
    """The flags that choose the cluster and the user."""
    group = parser.add_argument_group(_OF_KUBECTL)
    group.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig file to use")
    group.add_argument("--context", metavar="NAME", help="context of the kubeconfig to use")
    group.add_argument("--cluster", metavar="NAME", help="cluster of the kubeconfig to use")
    group.add_argument("--user", metavar="NAME", help="user of the kubeconfig to use")
    group.add_argument("-s", "--server", metavar="URL", help="address of the API server")
    group.add_argument("--token", metavar="TOKEN", help="bearer token for the API server")
    group.add_argument("--as", dest="as_user", metavar="USER", help="user to impersonate")
    group.add_argument(
        "--as-group", dest="as_groups", metavar="GROUP", action="append", default=[], help="group to impersonate"
    )
    group.add_argument(
        "--insecure-skip-tls-verify",
        action="store_true",
        help="do not check the API server's certificate",
    )
    group.add_argument(
        "--request-timeout", metavar="TIME", type=duration, default=0.0, help="timeout of one API request (10s)"
    )


def files(parser: Parser) -> None:
    parser.add_argument(
        "-f", "--filename", metavar="FILE", action="append", default=[], help="file, directory, or - for standard input"
    )
    parser.switch("-R", "--recursive", help="also read the subdirectories of directories")


def name(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", type=deployment_name, help="name of the served Deployment")


def deployment_name(text: str) -> str:
    """A Deployment's name, also in kubectl's form ``deployment.apps/NAME``. Raises ValueError."""
    kind, separator, name = text.rpartition("/")
    if not name or (separator and kind.removesuffix(".apps").lower() not in _KINDS):
        raise argparse.ArgumentTypeError(f'"{text}" is not a Deployment: write NAME or deployment/NAME')
    if not object_name.is_subdomain(name):
        raise argparse.ArgumentTypeError(
            f'"{name}" is not a valid Deployment name: use lower-case letters, digits, "-" and "."'
        )
    return name


def secret_name(text: str) -> str:
    """A Secret's name. Raises ValueError."""
    if not object_name.is_subdomain(text):
        raise argparse.ArgumentTypeError(
            f'"{text}" is not a valid Secret name: use lower-case letters, digits, "-" and "."'
        )
    return text


def file_patterns(text: str) -> "FilePatterns":
    """Patterns of a model's files. Raises ValueError."""
    from model_uri.file_patterns import parse_patterns

    try:
        return parse_patterns(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" is not a list of file patterns: {error}') from None


def namespace_name(text: str) -> str:
    """A namespace's name. Raises ValueError."""
    if not object_name.is_label(text):
        raise argparse.ArgumentTypeError(
            f'"{text}" is not a valid namespace name: use lower-case letters, digits and "-"'
        )
    return text


def namespace(parser: Parser) -> None:
    parser.add_argument(
        "-n",
        "--namespace",
        metavar="NAME",
        type=namespace_name,
        help="namespace; default: the namespace of the context",
    )


def again(args: argparse.Namespace) -> str:
    """The flags of this command that a command in a hint needs as well."""
    import shlex

    flags = (("--kubeconfig", "kubeconfig"), ("--context", "context"), ("-n", "namespace"))
    given = ((flag, getattr(args, name, None)) for flag, name in flags)
    return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given if value)


def all_namespaces(parser: Parser) -> None:
    parser.switch("-A", "--all-namespaces", help="look in all namespaces")


def selector(parser: Parser) -> None:
    parser.add_argument("-l", "--selector", metavar="SELECTOR", default="", help="label selector, for example team=ml")


def output(parser: Parser, *formats: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=formats, metavar="FORMAT", help=f"output format: {', '.join(formats)}"
    )


def credentials_dir(parser: Parser) -> None:
    parser.add_argument(
        "--credentials-dir",
        metavar="DIR",
        type=_folder,
        help="directory with a Secret's keys as files, to read the model; default: environment variables",
    )


def _folder(text: str) -> "Path":
    from pathlib import Path

    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f'"{text}" is not a directory')
    return Path(text)


DRY = {"none": "", "client": " (dry run)", "server": " (server dry run)"}
"""Suffix of the result's line for each value of --dry-run."""


def dry_run(parser: Parser) -> None:
    parser.optional_value(
        "--dry-run",
        "client",
        choices=("none", "client", "server"),
        default="none",
        metavar="client|server|none",
        help="only show what the command would do; with =server, the API server validates it too",
    )


def timeout(parser: Parser, default: str, help: str) -> None:  # noqa: A002
    parser.add_argument(
        "--timeout", metavar="TIME", type=duration, default=duration(default), help=f"{help} (default {default})"
    )


def connection_of(words: list[str], seconds: str) -> argparse.Namespace:
    """The flags that choose cluster and namespace, from an incomplete command line; ``seconds``: the request timeout.

    A flag at the end has no value yet.
    """
    parser = Parser(BY_NAME["get"])
    namespace(parser)
    connection(parser)
    whole = words[:-1] if words and words[-1] in ("-n", "--namespace", "--context") else words
    return parser.parse_known_args([*whole, "--request-timeout", seconds])[0]


def duration(text: str) -> float:
    """Seconds of a duration as Go writes it, such as 90s or 1m30s; a bare number counts seconds.

    Raises ArgumentTypeError.
    """
    try:
        nanoseconds = durations.parse(f"{text}s" if text.isdecimal() else text)
    except ValueError:
        nanoseconds = -1
    if nanoseconds < 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration; write it as 90s or 1m30s')
    return nanoseconds / durations.SECOND
