"""What `install` applies, and what an installation looks like."""
