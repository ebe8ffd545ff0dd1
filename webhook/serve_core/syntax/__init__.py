"""Small grammars, one module each: quantities, durations, image references, globs, URI templates."""
