"""The actions of `kubectl serve policy`: tests without a cluster, and the policies of a cluster."""
