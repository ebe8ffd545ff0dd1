"""Requests to a model, and the way to its URL."""
