"""Starts or joins Ray, and says what fits where."""
