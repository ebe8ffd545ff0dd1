"""The node cache: a CSI driver for ephemeral inline volumes, so that a model reaches a node once."""
