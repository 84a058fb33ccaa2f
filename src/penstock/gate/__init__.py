"""Let nothing worse through: pure deciders that see evidence and say what may be served.

Nothing that reads a clock or a file belongs here."""
