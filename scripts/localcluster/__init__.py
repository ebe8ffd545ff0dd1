"""A real local Kubernetes cluster, with the standard library only. `scripts/cluster` runs it."""
