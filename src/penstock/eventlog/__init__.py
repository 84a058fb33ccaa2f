"""Keep what happened, in order, for good: the durable log. No meaning of events belongs here, only bytes and counts."""
