"""MLflow's side: mirror, reader, models, registry, pages. The only room that imports mlflow."""
