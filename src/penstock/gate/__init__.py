"""Let nothing worse through: pure deciders that see evidence and say what may be served. They neither read clocks nor files."""
