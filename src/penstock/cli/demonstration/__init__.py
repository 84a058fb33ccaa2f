"""The demo: two real streams, the clients that send them, a learner that forgets beside ours, and what is shown."""
