"""InferenceServices as annotated Deployments."""
