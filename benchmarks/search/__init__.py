"""The search itself, measured: a table of real trainings, a sweep's decisions replayed on it, and
how few epochs each way to search needs.
"""
