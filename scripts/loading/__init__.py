"""The parts of the loader's benchmark: who loads (`arms`), over what (`ways`), how it is measured, and the tables."""
