"""What an apply would change."""
