"""LLMInferenceServices as annotated Deployments."""
