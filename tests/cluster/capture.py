#!/usr/bin/python3
"""A CNI plugin with the effect of Istio's, without Envoy: outbound TCP goes to a closed port, except from user 1337 and
within the pod. It applies to the pods of the namespace in its configuration.

Source: https://www.cni.dev/docs/spec/ (chained plugins), istio.io/istio/tools/istio-iptables.
"""

import json
import os
import subprocess
import sys

NOBODY_LISTENS = "15001"
PROXY_UID = "1337"


def main() -> None:
    command = os.environ["CNI_COMMAND"]
    if command == "VERSION":
        print(json.dumps({"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}))
        return
    config = json.load(sys.stdin)
    pod = dict(part.split("=", 1) for part in os.environ.get("CNI_ARGS", "").split(";") if "=" in part)
    if command == "ADD":
        if pod.get("K8S_POD_NAMESPACE") == config["namespace"] and not pod["K8S_POD_NAME"].startswith("web"):
            redirect = ["-m", "owner", "!", "--uid-owner", PROXY_UID, "-j", "REDIRECT", "--to-ports", NOBODY_LISTENS]
            capture = ["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "!", "-o", "lo", *redirect]
            subprocess.run(["nsenter", f"--net={os.environ['CNI_NETNS']}", *capture], check=True, stdout=sys.stderr)
        print(json.dumps(config["prevResult"]))


main()
