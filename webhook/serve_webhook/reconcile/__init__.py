"""The reconciler: it applies what Deployments are rendered to, and writes their conditions."""
