"""KServe's resources as annotated Deployments."""
