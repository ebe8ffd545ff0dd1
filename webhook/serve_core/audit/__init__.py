"""Objects against policies: what a cluster has stored, and documents without a cluster."""
