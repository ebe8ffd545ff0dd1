"""What to load: arguments, and the files that a source lists, with their names."""
