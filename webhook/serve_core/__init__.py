"""The pure core: an annotated Deployment in, a verdict out. No I/O, clock, randomness or environment."""
