"""A user with the role ``edit`` in one namespace who means harm: what they send, and what may never be there."""
