"""What the core needs to know about the cluster, as one frozen value."""
