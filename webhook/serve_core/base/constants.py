"""Names that more than one part must agree on. The annotations have a module of their own."""

GROUP = "kubectl-serve.dev"
PREFIX = f"{GROUP}/"

NAMESPACE = "kubectl-serve"
"""Where the server runs."""

NEVER_JUDGED = frozenset({"kube-system", "kube-node-lease", "knative-serving", NAMESPACE})
"""Namespaces that the webhooks are not called for, and no policy is about."""

SERVICE_ACCOUNT = "kubectl-serve"
SERVER_USERNAME = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
"""The user by which the API server names our own writes."""

FIELD_MANAGER = "server.kubectl-serve.dev"
"""Field manager of the server's writes. Flux takes one that begins with ``kubectl`` for somebody at a keyboard, and
takes back what they wrote."""

SERVED_LABEL = f"{PREFIX}served"
"""On a served Deployment, value ``true``: what the reconciler lists and watches."""

ADOPT_LABEL = f"{PREFIX}adopt"
"""On a Deployment without a model: where a policy adopts, its value stands for ``{label}`` in the policy's URI."""

DEPLOYMENT_LABEL = f"{PREFIX}deployment"
"""On the Knative Service and its pods: the name of the Deployment they come from."""

COMPLETION_LABEL = f"{PREFIX}completion"
"""On the ConfigMaps of the server's namespace that keep what models were completed with: what they hold, ``loader`` or
``runtime``."""

EXPLANATION = f"{PREFIX}explanation"
"""Annotation on what is made beside the Knative Service: why it says what it says."""

CONDITION_MODEL_LOADED = f"{PREFIX}ModelLoaded"
CONDITION_READY = f"{PREFIX}Ready"
CONDITION_COMPLIANT = f"{PREFIX}PolicyCompliant"

LOADER_CONTAINER = "model-loader"
SERVER_CONTAINER = "model-server"
MODEL_VOLUME = "model"
CREDENTIALS_VOLUME = "model-credentials"
SIGNATURE_KEY_VOLUME = "model-signature-key"

MODEL_VOLUME_MOUNT = "/mnt/model-volume"
"""Where the loader sees the whole volume; its sub-path ``model`` is what the server sees."""
MODEL_SUBPATH = "model"
MODEL_MOUNT = "/mnt/models"
"""Where the model server finds the model, as in KServe."""
CREDENTIALS_MOUNT = f"/var/run/secrets/{GROUP}/credentials"
SIGNATURE_KEY_MOUNT = f"/etc/{GROUP}/signature-key"
SIGNATURE_KEY = "key.pub"
"""The key of the ConfigMap, and so the file's name."""

MERGED_BY_NAME = ("env", "volumeMounts")
"""Lists of a container that a runtime's variant adds to by name; it replaces all others."""
