"""The manifests of `install`, and the context of an installed cluster."""
