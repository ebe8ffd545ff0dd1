"""How each kind of object becomes a subject, the form in which policies see it."""
