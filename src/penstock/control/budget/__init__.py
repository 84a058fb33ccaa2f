"""What may be spent, and what is done when it is: limits, the ladder, alerts.

Pure: what was spent, what is forecast, the rung and the time go in; a rung and alerts with their reasons come out."""
