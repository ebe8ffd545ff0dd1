"""Names that several packages share. Annotations are in :mod:`serve_core.api.annotations`."""

GROUP = "kubectl-serve.dev"
PREFIX = f"{GROUP}/"

NAMESPACE = "kubectl-serve"
"""The namespace of the server."""

NEVER_JUDGED = frozenset({"kube-system", "kube-node-lease", "knative-serving", NAMESPACE})
"""Namespaces that the webhooks and the policies exclude."""

SERVICE_ACCOUNT = "kubectl-serve"
SERVER_USERNAME = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
"""The user name of the server's requests to the API server."""

FIELD_MANAGER = "server.kubectl-serve.dev"
"""Field manager of the server's writes. It must not begin with ``kubectl``: Flux reverts changes of such managers as
manual edits."""

SERVED_LABEL = f"{PREFIX}served"
"""On a served Deployment, with value ``true``: the reconciler lists and watches by it."""

ADOPT_LABEL = f"{PREFIX}adopt"
"""On a Deployment without a model, for adoption by a policy; its value replaces ``{label}`` in the policy's URI."""

DEPLOYMENT_LABEL = f"{PREFIX}deployment"
"""On the Knative Service and its pods: the name of their Deployment."""

COMPLETION_LABEL = f"{PREFIX}completion"
"""On the ConfigMaps with completion records in the server's namespace: their content, ``loader`` or ``runtime``."""

EXPLANATION = f"{PREFIX}explanation"
"""Annotation on the objects beside the Knative Service: the reasons for their content."""

CONDITION_MODEL_LOADED = f"{PREFIX}ModelLoaded"
CONDITION_READY = f"{PREFIX}Ready"
CONDITION_COMPLIANT = f"{PREFIX}PolicyCompliant"
CONDITION_PREFETCHED = f"{PREFIX}Prefetched"
CONDITION_STATE = f"{PREFIX}State"
"""Its content is in :mod:`serve_core.api.state`."""
REGISTERED = "Registered"
"""Reason of ModelLoaded and Ready where Knative calls a revision ready without a pod: the model is not started."""

NODE_CACHE = "cache.kubectl-serve.dev"
"""The CSI driver of the node cache."""
NODE_CACHE_NAMESPACE = "kubectl-serve-cache"
"""The namespace and the name of its DaemonSet."""
PREFETCH_LABEL = f"{PREFIX}prefetch"
"""On the pods that load a model in advance, and on what makes them: the name of the Deployment."""
LOADER_CONTAINER = "model-loader"
SERVER_CONTAINER = "model-server"
MODEL_VOLUME = "model"
CREDENTIALS_VOLUME = "model-credentials"
SIGNATURE_KEY_VOLUME = "model-signature-key"
NO_TOKEN_VOLUME = "model-no-token"  # noqa: S105  # a name
"""An empty folder that hides the pod's token from a loader whose volume is a claim."""

MODEL_VOLUME_MOUNT = "/mnt/model-volume"
"""Where the loader mounts the whole volume; the server mounts its sub-path ``model``."""
MODEL_SUBPATH = "model"
HUB_SUBPATH = "hub"
"""Of the model's volume: the model as a cache of ``huggingface_hub``, which the loader lays out on request."""
HUB_MOUNT = "/mnt/hub-cache"
"""Where a server that names the repository finds it."""
MODEL_MOUNT = "/mnt/models"
"""Where the model server finds the model, as in KServe."""
CREDENTIALS_MOUNT = f"/var/run/secrets/{GROUP}/credentials"
SIGNATURE_KEY_MOUNT = f"/etc/{GROUP}/signature-key"
SIGNATURE_KEY = "key.pub"
"""The key in the ConfigMap, and so the name of the file."""

MERGED_BY_NAME = ("env", "volumeMounts")
"""Lists of a container that a runtime's variant extends by name; it replaces all other lists."""
