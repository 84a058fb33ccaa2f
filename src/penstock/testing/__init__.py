"""For our tests and those of users: memory twins of the doors, fault points, conformance suites.

The product never needs it."""
