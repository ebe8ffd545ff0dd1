"""Whatever is done to a Deployment, what it becomes is what it would have become by itself.

Each sequence does things at random to one Deployment: it is created, applied, edited, scaled, taken back, deleted and
created again; what it owns is changed and deleted by hand; others take its name; replicas of the server are killed.
At its end the same Deployment is created in a second namespace, where nothing ever happened. Both have to be alike:

- the Deployment's spec, labels and annotations, but for what is noted of revisions, which have another history;
- every object that it owns, no more and no fewer, each with its labels, annotations, owner and spec;
- the status and the reason of its conditions, which speak of its present generation;
- its own pods: none beside Knative's once those serve, all of them where it is served no more.

A Deployment that is gone has left nothing. Nothing is written any more, and ``kubectl serve diff`` sees no difference.
It runs where ``KUBECTL_SERVE_SEED`` is set, which draws the sequences; ``KUBECTL_SERVE_CASES`` says how many. On a busy
machine a sequence may meet a moment that its oracle takes for another: a failure is to be read, not only counted. What
needs Istio is drawn where the cluster has its resources.
"""

import collections
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.sequences import Sequence
from cluster.support import Ingress, Namespace

SEED = os.environ.get("KUBECTL_SERVE_SEED")
CASES = int(os.environ.get("KUBECTL_SERVE_CASES", "8"))
AT_ONCE = 8
"""Each of them waits most of the time."""


@pytest.fixture(scope="module")
def quick_autoscaler(ingress: Ingress) -> Iterator[None]:
    """Knative treats a revision without pods as ready, and soon stops the pods of revisions without requests."""
    knative = Namespace("knative-serving")
    changes = {"allow-zero-initial-scale": "true", "initial-scale": "0", "stable-window": "6s"}
    knative.kubectl("patch", "configmap", "config-autoscaler", "-p", json.dumps({"data": changes}))
    yield
    undone = json.dumps({"data": dict.fromkeys(changes)})
    knative.kubectl("patch", "configmap", "config-autoscaler", "-p", undone)


def failure(name: str, web: str, counts: collections.Counter[str]) -> str:
    """What went wrong in a sequence, and what had been done; empty if nothing did."""
    with Sequence(name, web) as sequence:
        try:
            sequence.run()
        except AssertionError as error:
            return "\n".join([f"Sequence {name}:", *sequence.done, str(error)])
        finally:
            counts.update(sequence.operations)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(SEED is None, reason="KUBECTL_SERVE_SEED is not set")
def test_everything_becomes_what_it_would_have_become_by_itself(
    web: str, quick_autoscaler: None, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    names = [f"{SEED}-{number}" for number in range(CASES)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [found for found in pool.map(lambda name: failure(name, web, counts), names) if found]
    with capsys.disabled():
        took = time.monotonic() - started
        print(f"\nseed {SEED}: {CASES} sequences, {took:.0f} s: {json.dumps(dict(counts.most_common()))}")
    assert not failures, "\n\n".join(failures)
