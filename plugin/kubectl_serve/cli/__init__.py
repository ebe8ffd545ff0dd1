"""The command line: verbs, flags, completion, streams."""
