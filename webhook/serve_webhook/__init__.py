"""What runs in the cluster: the admission webhook and the reconciler beside it."""
