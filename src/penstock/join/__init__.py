"""Put the answer to its question: feedback is joined to its prediction here.

What is learned of the pair is not decided here."""
