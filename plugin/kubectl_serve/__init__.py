"""kubectl-serve: serve a model on Kubernetes with one line."""

__version__ = "0.1.0"
PROGRAM = "kubectl serve"
"""The command as users type it."""
