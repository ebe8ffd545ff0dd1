"""Downloads files in parallel, with bounded memory."""
