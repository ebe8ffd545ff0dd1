"""What to load: the arguments, and the files of a source with their names."""
