"""One module per verb: ``configure`` adds its flags, ``run`` executes it and returns the exit code.

A verb with work before it connects to the cluster also has ``prepare``.
"""
