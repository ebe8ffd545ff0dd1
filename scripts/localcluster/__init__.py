"""A real local cluster, standard library only: what `scripts/cluster` runs."""
