"""Checksums, digests, signatures, and formats that can run code."""
