"""ServingRuntimes as ModelRuntimes, and what an InferenceService takes from one."""
