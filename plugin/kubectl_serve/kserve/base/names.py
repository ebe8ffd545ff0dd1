"""Names of KServe's API. Source: KServe 0.20, ``pkg/apis/serving/v1beta1`` and ``pkg/constants``."""

GROUP = "serving.kserve.io"
VERSION = f"{GROUP}/v1beta1"
FORMER_GROUP = "serving.kubeflow.org"
"""The group of KServe's API while it was KFServing. Its v1beta1 has the same fields."""
VERSIONS = (VERSION, f"{FORMER_GROUP}/v1beta1")
KIND = "InferenceService"

FRAMEWORKS = (
    "sklearn", "tensorflow", "xgboost", "pytorch", "triton", "onnx", "huggingface", "pmml", "lightgbm", "paddle",
)  # fmt: skip
"""Fields of a predictor in the old form, one for each framework, in the order in which KServe looks for one."""

SERVER = "kserve-container"
"""The container that serves the model."""
LLM_SERVER = "main"
"""The container that serves a language model."""
TRANSFORMER = "transformer-container"
"""The container that takes the requests in front of it."""
STORAGE_URI = "STORAGE_URI"
"""Variable of a custom container with the URI of its model. KServe replaces its value by the model's path."""
PORT = 8080
"""The port of a container that declares none."""
READ_ONLY = "storage.kserve.io/readonly"
"""The annotation for claims that the model server writes to, with the value ``false``."""
STORAGE_SECRETS = (f"{GROUP}/storageSecretName", f"{GROUP}/secretName")
"""The annotation that names the Secret of the store, as KServe's manifests and its charts configure it."""
