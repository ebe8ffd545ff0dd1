"""The digest of a model, computed on this machine."""
