"""One training in one folder. The only room that imports ray.train."""
