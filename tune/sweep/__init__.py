"""One search: what it tries, runs, stops and remembers. The only room that imports optuna and
ray.tune.
"""
