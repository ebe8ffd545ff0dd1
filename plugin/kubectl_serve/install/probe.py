"""Whether the webhook completes Deployments: a dry run creates one."""

from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import for_user
from kubectl_serve.status import lookup, model
from serve_core.api.annotations import FORMAT, MODEL
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS

UNASKED = "the API server did not call it for a Deployment with the annotation."
_POLICIES = "policies.kubectl-serve.dev"


async def probe(cluster: Cluster, namespace: str) -> str:
    """The fault of the webhook's answer; empty if there is none.

    Raises ForbiddenError if the user may not create Deployments there, NotFoundError if there is no such namespace.
    """
    deployment: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "kubectl-serve-probe",
            "namespace": namespace,
            "annotations": {MODEL: "https://example.com/model.joblib", FORMAT: "sklearn"},
        },
    }
    try:
        made = await cluster.create(DEPLOYMENTS, deployment, dry_run=True)
    except (errors.ForbiddenError, errors.NotFoundError):
        raise
    except errors.DeniedError as error:
        # Policies judge a completed Deployment.
        return "" if error.webhook == _POLICIES else error.denial
    except errors.InvalidError as error:
        return UNASKED if lookup.is_uncompleted(error) else error.message
    except errors.ApiError as error:
        return for_user(error).sentence
    return "" if model.is_served(made) else UNASKED
