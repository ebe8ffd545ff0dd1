"""Grammars, one module each: quantities, durations, image references, names, public URLs, globs, URI templates."""
