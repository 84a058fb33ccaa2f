"""Where a service should run: what each way costs a month, what it cannot do, and where the choice flips.

``workload`` is what comes and what is wanted, ``queueing`` the formulas, ``options`` the ways to run it with their
prices, ``limits`` what none may break, ``estimate`` what the formulas say of one, ``trial`` simulates one quickly and
``rehearse`` on a whole cluster, ``choose`` takes the cheapest that holds, ``flips`` finds where that is another one.

Nothing here reads a clock, and the same seed gives the same choice."""
