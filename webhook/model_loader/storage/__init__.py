"""The model volume: folders, and the journal of what is on it."""
