"""The verbs: one table for help, completion and dispatch. It imports no other module, so that help is instant."""

from kubectl_serve import PROGRAM


class Verb:
    """One verb; its code is the module of that name in :mod:`kubectl_serve.commands`, imported only to run it."""

    __slots__ = ("completes", "failed", "group", "name", "online", "operands", "summary")

    def __init__(
        self,
        group: str,
        name: str,
        operands: str,
        summary: str,
        *,
        online: bool = True,
        failed: int = 1,
        completes: str | tuple[str, ...] = (),
    ) -> None:
        self.group = group
        self.name = name
        self.operands = operands
        self.summary = summary
        self.online = online
        """Whether it connects to the cluster, and so runs in an event loop."""
        self.failed = failed
        """The exit code of a failure."""
        self.completes = completes
        """Completion of its operands: SERVED, FILES, or these words."""


SERVED = "served"
"""The names of served Deployments."""
FILES = "files"


VERBS = (
    Verb("Serve a model", "create", "NAME --model URI", "Serve a model, and wait until it is ready"),
    Verb("Serve a model", "get", "[NAME...]", "List served models", completes=SERVED),
    Verb(
        "Serve a model",
        "describe",
        "NAME",
        "Show the settings, choices and state of a model",
        completes=SERVED,
    ),
    Verb("Serve a model", "logs", "NAME", "Show the logs of the loader and the model server", completes=SERVED),
    Verb("Serve a model", "predict", "NAME [DATA]", "Send a prediction request to a model", completes=SERVED),
    Verb("Serve a model", "promote", "NAME", "Send all traffic to the latest revision", completes=SERVED),
    Verb("Serve a model", "rollback", "NAME", "Send all traffic to the previous revision", completes=SERVED),
    Verb("Serve a model", "delete", "NAME...", "Delete a served model, and wait until it is gone", completes=SERVED),
    Verb(
        "Preview and check",
        "render",
        "-f FILE",
        "Show offline what a Deployment becomes, or why it is refused",
        online=False,
    ),
    # As in kubectl diff, 1 means a difference.
    Verb("Preview and check", "diff", "-f FILE", "Show what an apply would change in the Knative Service", failed=2),
    Verb("Preview and check", "digest", "URI|PATH", "Compute the digest that pins a model", completes=FILES),
    Verb(
        "Preview and check",
        "policy",
        "ACTION",
        "Test policies offline, and audit served models",
        completes=("test", "list", "explain", "audit"),
    ),
    Verb("Preview and check", "runtimes", "", "List model servers, show outdated models, and update them"),
    Verb(
        "Preview and check",
        "convert",
        "-f FILE",
        "Convert KServe's models and runtimes, offline",
        online=False,
    ),
    Verb("Set up a cluster", "install", "", "Install kubectl-serve into the cluster, or update it"),
    Verb(
        "Set up a cluster",
        "cache",
        "ACTION",
        "List, load, verify and evict the models that nodes keep",
        completes=("list", "prefetch", "verify", "evict"),
    ),
    Verb("Set up a cluster", "doctor", "", "Check whether the cluster is ready to serve models, and suggest fixes"),
    Verb("Set up a cluster", "uninstall", "", "Remove kubectl-serve from the cluster; served models keep running"),
    Verb("About", "version", "", "Print the version of this command, and of the server in the cluster"),
    Verb(
        "About",
        "completion",
        "[SHELL]",
        "Show how to enable shell completion",
        online=False,
        completes=("bash", "zsh", "fish"),
    ),
)

BY_NAME = {verb.name: verb for verb in VERBS}

OTHER_NAMES = {
    "ls": "get", "list": "get", "ps": "get", "status": "get", "watch": "get -w", "show": "describe", "info": "describe",
    "explain": "policy explain", "audit": "policy audit", "test": "policy test", "lint": "policy test",
    "ask": "predict", "infer": "predict", "invoke": "predict", "call": "predict", "chat": "predict", "query": "predict",
    "rm": "delete", "remove": "delete", "destroy": "delete", "undeploy": "delete", "stop": "delete",
    "new": "create", "add": "create", "run": "create", "start": "create", "deploy": "create", "serve": "create",
    "undo": "rollback", "revert": "rollback", "rollout": "promote", "hash": "digest", "sha": "digest", "pin": "digest",
    "check": "doctor", "diagnose": "doctor", "setup": "install", "init": "install", "upgrade": "install",
    "template": "render", "dry-run": "render", "preview": "render", "validate": "render", "migrate": "convert",
    "prefetch": "cache prefetch", "evict": "cache evict", "prune": "cache evict", "verify": "cache verify",
    "pull": "cache prefetch", "models": "get", "policies": "policy list", "tail": "logs",
}  # fmt: skip
"""Names of verbs in other tools, and the verb here."""
ON_DEPLOYMENTS = ("update", "edit", "set", "patch", "apply", "scale", "annotate")
"""Verbs of kubectl: here, users change a model's annotations instead."""

VALUE_FLAGS = (
    "-n", "--namespace", "--kubeconfig", "--context", "--cluster", "--user", "--as", "--as-group", "-s", "--server",
    "--token", "--request-timeout",
)  # fmt: skip
"""kubectl's flags with a value: they can precede the verb."""


def help_text() -> str:
    """The text of ``kubectl serve --help``."""
    width = max(len(verb.name) for verb in VERBS) + 2
    lines = ["Serve a model on Kubernetes with one command.", "", f"Usage: {PROGRAM} VERB [flags]"]
    group = ""
    for verb in VERBS:
        if verb.group != group:
            group = verb.group
            lines += ["", f"{group}:"]
        lines.append(f"  {verb.name:<{width}}{verb.summary}")
    lines += [
        "",
        "Example:",
        f"  {PROGRAM} create iris --model s3://models/iris/model.joblib",
        f"  {PROGRAM} predict iris '[[5.1, 3.5, 1.4, 0.2]]'",
        "",
        f"`{PROGRAM} VERB --help` shows the flags of a verb; flags of kubectl (`kubectl options`) work too.",
        "",
    ]
    return "\n".join(lines)


def split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The verb, which is the first word that is not a flag of kubectl, and the other words."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--" or not word.startswith("-"):
            break
        index += 2 if word in VALUE_FLAGS else 1
    if index >= len(argv) or argv[index] == "--":
        return None, argv
    return argv[index], argv[:index] + argv[index + 1 :]
