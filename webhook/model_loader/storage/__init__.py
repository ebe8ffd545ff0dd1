"""The model volume: its folders, the folder of a claim that pods share, and the journal of written parts."""
