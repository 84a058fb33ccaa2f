"""What machines cost: a dated list with its sources, which a user's own file may replace line by line.

No price is fetched, and none is without the day on which it was read."""
