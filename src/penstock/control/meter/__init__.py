"""What the house has used, and what that costs: samples of counters in, charges out.

Pure: no clock, no file, no process is looked at here; ``control.sensor`` does that."""
