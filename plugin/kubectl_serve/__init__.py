"""kubectl-serve: serve a model on Kubernetes with one line."""

__version__ = "0.1.0"
