"""Where weights are for those who serve them: shared memory for the newest, a folder each for what is kept."""
