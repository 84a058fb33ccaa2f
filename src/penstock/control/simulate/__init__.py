"""A service on a cluster, simulated: requests queue, both autoscalers look when they would, nodes come late and go
early, and every second is paid for.

``scenario`` says what is simulated, ``traffic`` where requests come from, ``queue`` serves them, ``cluster`` holds
nodes and pods, ``backlog`` what waits for the learner, ``run`` lets time pass, ``outcome`` is what is told. The same
seed gives the same bytes."""
