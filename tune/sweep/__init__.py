"""One search: what it tries, runs, stops, remembers. The one room with optuna and ray.tune."""
