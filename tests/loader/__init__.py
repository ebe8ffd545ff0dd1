"""Tests of the model loader, and the servers that they and the benchmark run."""
