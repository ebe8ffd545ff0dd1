"""The reconciler: from what a Deployment asks for to objects of the cluster and conditions."""
