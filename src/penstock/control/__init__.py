"""Upstairs: the processes of the house, kept running; and what a cluster would do and cost.

``autoscale``, ``nodes``, ``prices``, ``simulate`` and ``plan`` decide purely: no cluster, no clock, no file but prices
and traces."""
