"""Puts the network on Ray, searches, records in MLflow, and replays."""
