"""Answer with the newest good version: the HTTP server, and the only room with asynchronous code."""
