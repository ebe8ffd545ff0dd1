"""One module a verb: ``configure`` names its flags, ``run`` does it and returns the exit code.

One that has work to do before it asks the cluster has ``prepare`` as well.
"""
