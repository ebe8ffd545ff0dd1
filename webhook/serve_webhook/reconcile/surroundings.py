"""Lists the autoscalers and disruption budgets of a namespace.

The reconciler does so once for each change of a Deployment: a watch would bring every autoscaler of the cluster, and
again with each change of its status. KEDA's ScaledObjects need no permission: KEDA makes an autoscaler of each.
"""

import logging

from serve_core.base.json import JsonObject
from serve_core.context import neighbours
from serve_core.context.neighbours import Neighbours
from serve_kube.client import Client
from serve_kube.errors import ApiError
from serve_kube.resources import AUTOSCALERS, DISRUPTION_BUDGETS, Resource

MAX_OBJECTS = 500
"""Objects of one kind that are read: any user can create them."""

logger = logging.getLogger(__name__)


async def read(api: Client, namespace: str) -> dict[str, Neighbours]:
    """Those of the namespace, by namespace. A kind that cannot be listed counts as missing."""
    found = [each for resource in (AUTOSCALERS, DISRUPTION_BUDGETS) for each in await _list(api, resource, namespace)]
    return neighbours.read(found)


async def _list(api: Client, resource: Resource, namespace: str) -> list[JsonObject]:
    found: list[JsonObject] = []
    try:
        async for page in api.pages(resource, namespace):
            found += ({"apiVersion": resource.api_version, "kind": resource.kind} | each for each in page.items)
            if len(found) >= MAX_OBJECTS:
                break
    except ApiError as error:
        logger.warning("Going on without the %s of namespace %s: %s", resource.plural, namespace, error)
    return found[:MAX_OBJECTS]
