"""The audit of what exists: it holds stored objects against the present policies and reports what breaks them."""
