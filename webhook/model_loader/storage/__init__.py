"""The model volume: file names, folders, the journal."""
