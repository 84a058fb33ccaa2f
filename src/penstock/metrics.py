"""Counters and histograms that the stages write, and their Prometheus text.

Every process writes its own memory-mapped files in one folder, and whoever is asked adds them up, so that a scrape of any
server worker sees the whole service, the learner included. The folder is named by the environment before the first import.
"""
