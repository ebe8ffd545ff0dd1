"""One module a verb: ``configure`` names its flags, ``run`` does it and returns the exit code."""
