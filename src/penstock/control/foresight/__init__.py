"""Our own autoscaler: how many replicas would have been enough lately, found by letting the same requests come again.

``trial`` lets them come, ``decide`` is a look at the service. Nothing here reads a clock: the time is an argument."""
