"""MLflow's side: the mirror, the reader, models, registry and pages. The only room that imports
mlflow.
"""
