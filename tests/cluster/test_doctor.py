"""The doctor at a real cluster: what it finds, and that its own words put it right."""

import json
import shlex
import subprocess

from cluster.support import SERVER, Json, Namespace

KNATIVE = Namespace("knative-serving")


def diagnose() -> tuple[int, dict[str, Json]]:
    """The exit code, and what was found by check."""
    done = SERVER.run("kubectl", "serve", "doctor", "-o", "json", check=False)
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)["checks"]}


def obey(fix: str) -> None:
    """Run the commands of a fix as they stand."""
    for command in fix.split(" && "):
        subprocess.run(shlex.split(command), check=True, capture_output=True, text=True, timeout=300)


def plant(kind: str, name: str, patch: Json | list[Json]) -> None:
    how = "merge" if isinstance(patch, dict) else "json"
    KNATIVE.kubectl("patch", kind, name, f"--type={how}", "-p", json.dumps(patch))


def test_what_is_wrong_is_found_and_the_fix_puts_it_right() -> None:
    code, found = diagnose()
    assert (code, [each for each in found.values() if each["verdict"] == "failed"]) == (0, [])

    plant("configmap", "config-features", {"data": {"kubernetes.podspec-affinity": "enabeld"}})
    plant("configmap", "config-deployment", {"data": {"registries-skipping-tag-resolving": "kind.local"}})
    plant("configmap", "config-autoscaler", {"data": {"enable-scale-to-zero": "false"}})
    plant(
        "mutatingwebhookconfiguration",
        "kubectl-serve",
        [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}],
    )
    plant("clusterrole", "kubectl-serve", [{"op": "remove", "path": "/rules/0"}])
    planted = {"knative-flags", "knative-tags", "knative-scale-to-zero", "server-mutating-webhook", "rights-server"}

    code, found = diagnose()
    assert code == 1
    assert {check for check, each in found.items() if each["verdict"] in ("failed", "warning")} == planted
    for fix in dict.fromkeys(found[check]["fix"] for check in sorted(planted)):
        obey(fix)

    code, found = diagnose()
    assert (code, {check: found[check]["verdict"] for check in planted}) == (0, dict.fromkeys(planted, "ok"))
