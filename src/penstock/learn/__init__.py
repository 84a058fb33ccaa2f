"""Learn from each example once: features, heads, their mixture, and the state they make up.

Whether a change is served is decided downstream, by the gate."""
