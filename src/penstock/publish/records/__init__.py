"""What is written down of versions, for people and servers that ask."""
