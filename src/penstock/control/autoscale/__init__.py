"""How many replicas: the rules of Kubernetes' Horizontal Pod Autoscaler (autoscaling/v2) and of KEDA, as pure deciders.

``pods`` sorts the pods, ``replicas`` turns one metric into a count, ``limits`` holds counts back, ``horizontal`` is a
whole step of the controller. Nothing here talks to a cluster or reads a clock: the time is an argument."""
