"""`python -m benchmarks`: how fast this project is, as ratios against a baseline that is measured
in the same run.
"""
