"""The serving certificate and its authority."""
