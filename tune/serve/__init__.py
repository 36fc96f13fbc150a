"""What `rbnn serve` and `rbnn ui` start, and sweeps handed over as Ray jobs."""
