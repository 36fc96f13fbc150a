"""What a run is, in words, for its page in MLflow."""

from __future__ import annotations

from rbnn.recipe import Recipe


def described(kind: str, recipe: Recipe, name: str) -> str:
    """What a run is, in Markdown, for its page."""
    bits = "1W32A" if recipe.a32 else "1W1A"
    warm_up = "with" if recipe.warm_up else "without"
    return (
        f"**{kind}** of `{name}`: {recipe.model} ({bits}) on {recipe.dataset}, {recipe.epochs} epochs, seed {recipe.seed}.\n\n"
        f"lr {recipe.lr:.4g} {warm_up} warm-up, t from {recipe.Tmin:.4g} to {recipe.Tmax:.4g}, rotations updated every "
        f"{recipe.rotation_update} epoch(s). Its checkpoints are artifacts and logged models: "
        '`mlflow.pytorch.load_model("models:/MODEL_ID")`.'
    )
