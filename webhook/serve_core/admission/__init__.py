"""From an annotated Deployment to its Knative Service: the steps of admission."""
