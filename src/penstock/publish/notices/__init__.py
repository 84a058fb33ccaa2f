"""Small files by which the processes of a service tell each other how things stand."""
