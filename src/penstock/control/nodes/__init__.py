"""Which nodes: the rules of Kubernetes' Cluster Autoscaler, and the essentials of Karpenter, as pure deciders.

``shapes`` says what pods ask for and nodes have, ``packing`` puts the ones onto the others, ``expanders`` choose
between groups, ``removal`` says which nodes may go, ``autoscaler`` is a whole step, and ``karpenter`` another way to
take one. The time and the seed are arguments."""
