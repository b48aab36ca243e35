"""What the candidates of a site cost on this machine: the planner asks, and each is timed here."""
