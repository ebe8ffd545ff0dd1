"""The model volume: its folders, and the journal of written parts."""
