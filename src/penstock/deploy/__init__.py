"""A spec in, files out: what a cluster is to be told of a service.

Nothing here talks to a cluster or applies anything; whoever wants the files applied does so, with tools of their own.
What is written is read back and decided upon by the same rules as in the simulated cluster (``control.autoscale``), so
that a file's figures are those of the file."""
