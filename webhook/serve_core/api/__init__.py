"""What users and operators write: annotations, ModelRuntimes, policies; and what the loader writes."""
