"""The generated parts of the Helm chart. The manifests are the source of its objects, `values.Values` of its values."""
