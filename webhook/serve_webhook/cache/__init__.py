"""Local copies of the cluster's objects, kept current by watches."""
