"""The front door: one file a noun, and no logic that belongs to a stage."""
