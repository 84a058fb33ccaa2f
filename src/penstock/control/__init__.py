"""Upstairs: the processes of the house, kept running."""
