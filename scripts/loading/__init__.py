"""The loader's benchmark: who loads (`arms`), over which network (`ways`), the measurements, and the tables."""
