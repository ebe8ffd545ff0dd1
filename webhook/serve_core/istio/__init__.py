"""Istio: sidecar injection, authorization, telemetry."""
