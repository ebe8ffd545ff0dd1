"""Objects of the cluster, kept fresh by watches."""
