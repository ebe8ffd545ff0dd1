"""Lists the autoscalers and disruption budgets of a namespace.

The reconciler does so once for each change of a Deployment: a watch would bring every autoscaler of the cluster, and
again with each change of its status. KEDA's ScaledObjects need no permission: KEDA makes an autoscaler of each.
"""

import logging
from collections.abc import AsyncIterator

from serve_core.context import neighbours
from serve_core.context.neighbours import Neighbours
from serve_kube.client import Client
from serve_kube.errors import ApiError
from serve_kube.resources import AUTOSCALERS, DISRUPTION_BUDGETS, Resource

MAX_OBJECTS = 500
MAX_BYTES = 4 * 2**20
"""Of one kind, that are read: users create these objects, and what is beyond only lacks warnings."""

logger = logging.getLogger(__name__)


async def read(api: Client, namespace: str) -> dict[str, Neighbours]:
    """Those of the namespace, by namespace. A kind that cannot be listed counts as missing."""
    found = Neighbours()
    for resource in (AUTOSCALERS, DISRUPTION_BUDGETS):
        async for part in _summaries(api, resource, namespace):
            found = Neighbours(found.autoscalers + part.autoscalers, found.budgets + part.budgets)
    return {namespace: found}


async def _summaries(api: Client, resource: Resource, namespace: str) -> AsyncIterator[Neighbours]:
    """Page by page: whole objects would take hundreds of megabytes."""
    objects = size = 0
    try:
        async for page in api.pages(resource, namespace):
            of_kind = {"apiVersion": resource.api_version, "kind": resource.kind}
            items = page.items[: MAX_OBJECTS - objects]
            yield neighbours.read(of_kind | each for each in items).get(namespace, Neighbours())
            objects, size = objects + len(page.items) + len(page.unread), size + page.size
            if objects >= MAX_OBJECTS or size >= MAX_BYTES:
                return
    except ApiError as error:
        logger.warning("Going on without the %s of namespace %s: %s", resource.plural, namespace, error)
