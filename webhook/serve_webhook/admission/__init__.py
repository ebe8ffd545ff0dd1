"""Admission over HTTPS: reviews in, reviews out."""
