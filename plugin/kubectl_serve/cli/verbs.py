"""The verbs: one table for help, completion and dispatch. Imports no other module: help must be instant."""

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
        """Whether it talks to the cluster, and so runs in an event loop."""
        self.failed = failed
        """The exit code of a failure."""
        self.completes = completes
        """What completion offers for its operands: SERVED, FILES, or these words."""


SERVED = "served"
"""The names of served Deployments."""
FILES = "files"


VERBS = (
    Verb("Serve a model", "create", "NAME --model URI", "Serve a model, and wait until it answers"),
    Verb("Serve a model", "get", "[NAME...]", "List served models", completes=SERVED),
    Verb(
        "Serve a model",
        "describe",
        "NAME",
        "Show what was asked, what was chosen and why, and what runs",
        completes=SERVED,
    ),
    Verb("Serve a model", "logs", "NAME", "Show the logs of the loader and the model server", completes=SERVED),
    Verb("Serve a model", "predict", "NAME [DATA]", "Ask a model for a prediction", completes=SERVED),
    Verb("Serve a model", "promote", "NAME", "Give the newest revision all the traffic", completes=SERVED),
    Verb("Serve a model", "rollback", "NAME", "Give the revision before all the traffic", completes=SERVED),
    Verb("Serve a model", "delete", "NAME...", "Stop serving, and wait until nothing is left", completes=SERVED),
    Verb(
        "Look ahead",
        "render",
        "-f FILE",
        "Show offline what becomes of a Deployment, or why it is refused",
        online=False,
    ),
    # As for kubectl diff, 1 says that there is a difference.
    Verb("Look ahead", "diff", "-f FILE", "Show what an apply would change in the Knative Service", failed=2),
    Verb("Look ahead", "digest", "URI|PATH", "Compute the digest that pins a model to what it is now", completes=FILES),
    Verb(
        "Look ahead",
        "policy",
        "ACTION",
        "Try policies offline, and show what they say of what is served",
        completes=("test", "list", "explain", "audit"),
    ),
    Verb("Look ahead", "runtimes", "", "List model servers, show who would change with them, and roll it out"),
    Verb("Look ahead", "convert", "-f FILE", "Turn KServe's InferenceServices into Deployments, offline", online=False),
    Verb("Set up a cluster", "install", "", "Install kubectl-serve into the cluster, or update it"),
    Verb("Set up a cluster", "doctor", "", "Check whether the cluster is ready to serve models, and say what to do"),
    Verb("Set up a cluster", "uninstall", "", "Remove kubectl-serve from the cluster; what is served goes on"),
    Verb("About", "version", "", "Print the version of this command, and of the cluster's part"),
    Verb(
        "About",
        "completion",
        "[SHELL]",
        "Show how to switch on completion",
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
    "models": "get", "policies": "policy list", "tail": "logs",
}  # fmt: skip
"""What people call a verb that have another tool in mind."""
ON_DEPLOYMENTS = ("update", "edit", "set", "patch", "apply", "scale", "annotate")
"""Verbs of kubectl: a model is changed by its annotations."""

VALUE_FLAGS = (
    "-n", "--namespace", "--kubeconfig", "--context", "--cluster", "--user", "--as", "--as-group", "-s", "--server",
    "--token", "--request-timeout",
)  # fmt: skip
"""kubectl's flags that take a value: they may stand before the verb as well."""


def help_text() -> str:
    """What ``kubectl serve --help`` prints."""
    width = max(len(verb.name) for verb in VERBS) + 2
    lines = ["Serve a model on Kubernetes with one line.", "", f"Usage: {PROGRAM} VERB [flags]"]
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
        f"`{PROGRAM} VERB --help` shows a verb's flags; kubectl's own (`kubectl options`) go with it as well.",
        "",
    ]
    return "\n".join(lines)


def split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The verb, which is the first word that is none of kubectl's flags, and all the other words."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--" or not word.startswith("-"):
            break
        index += 2 if word in VALUE_FLAGS else 1
    if index >= len(argv) or argv[index] == "--":
        return None, argv
    return argv[index], argv[:index] + argv[index + 1 :]
