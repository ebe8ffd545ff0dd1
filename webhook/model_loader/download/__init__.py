"""Reading files in parallel, with bounded memory."""
