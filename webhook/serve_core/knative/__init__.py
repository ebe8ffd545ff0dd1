"""What Knative accepts, refuses and names: fields, limits, traffic, host names."""
