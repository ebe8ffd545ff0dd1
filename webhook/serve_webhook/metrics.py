"""What the server counts, for Prometheus."""

import math

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)


class Metrics:
    """One registry of one server; every name starts with ``kubectl_serve_``."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.reviews = Counter(
            "kubectl_serve_admission_reviews",
            "Admission reviews answered.",
            ("review", "decision"),
            registry=self._registry,
        )
        self.review_seconds = Histogram(
            "kubectl_serve_admission_review_seconds",
            "From the request's last byte to the answer.",
            ("review",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
            registry=self._registry,
        )
        self.reconciles = Counter(
            "kubectl_serve_reconciles",
            "Deployments reconciled.",
            ("result",),
            registry=self._registry,
        )
        self.writes = Counter(
            "kubectl_serve_writes",
            "Objects written by the reconciler.",
            ("what",),
            registry=self._registry,
        )
        self.policy_violations = Gauge(
            "kubectl_serve_policy_violations",
            "Objects that violate a rule, from the leader's last audit; other replicas report nothing.",
            ("policy", "rule", "verdict"),
            registry=self._registry,
        )
        self.audited = Gauge(
            "kubectl_serve_audit_timestamp_seconds",
            "When the last audit ended (Unix time); 0 on replicas that do not lead.",
            registry=self._registry,
        )
        self.load_seconds = Histogram(
            "kubectl_serve_model_load_seconds",
            "How long the loader of a pod took, by the code that it ended with.",
            ("code",),
            buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
            registry=self._registry,
        )
        self.queue = Gauge("kubectl_serve_queue_length", "Objects that wait to be reconciled.", registry=self._registry)
        self.leading = Gauge("kubectl_serve_leading", "1 while this replica reconciles.", registry=self._registry)
        self.watch_restarts = Counter(
            "kubectl_serve_watch_restarts",
            "Times that a resource had to be listed again.",
            ("resource",),
            registry=self._registry,
        )
        self.skipped = Counter(
            "kubectl_serve_objects_skipped",
            "Versions of objects that could not be read or handled; the log names each.",
            ("resource",),
            registry=self._registry,
        )
        self.certificate_expiry = Gauge(
            "kubectl_serve_certificate_expiry_timestamp_seconds",
            "When the serving certificate ends (Unix time).",
            registry=self._registry,
        )
        self.certificate_trusted = Gauge(
            "kubectl_serve_certificate_trusted",
            "1 if the API server's bundles verify the certificate that the server made; only on the leader a number.",
            registry=self._registry,
        )
        self.settings_valid = Gauge(
            "kubectl_serve_settings_valid",
            "0 while the mounted settings or runtimes are broken and older ones are in use.",
            registry=self._registry,
        )

        self.reset_leader_metrics()

    def reset_leader_metrics(self) -> None:
        """Reset metrics that only the leader reports: a former leader's values would be out of date."""
        self.leading.set(0)
        self.queue.set(0)
        self.policy_violations.clear()
        self.audited.set(0)
        self.certificate_trusted.set(math.nan)

    def watch_restarted(self, resource: str) -> None:
        self.watch_restarts.labels(resource).inc()

    def object_skipped(self, resource: str) -> None:
        self.skipped.labels(resource).inc()

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self._registry)
