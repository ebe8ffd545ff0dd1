"""Access to the Kubernetes API, for the plugin and the server."""
