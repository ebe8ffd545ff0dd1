"""The state of served models, as commands show it and wait for it."""
