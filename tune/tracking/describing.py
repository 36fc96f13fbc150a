"""What a run, and the experiment that holds them all, is in words, for its page in MLflow."""

from __future__ import annotations

from rbnn.recipe import Recipe

ABOUT = """Rotated binary neural networks, recorded by rbnn-tune: sweeps with their trials,
trainings, replays.

`rbnn ui SWEEP` opens on a sweep's trials, best first; so does the link at the head of a
sweep's own run. The tag `rbnn.kind` tells runs apart (sweep, trial, confirm, train, replay),
`rbnn.sweep` names the sweep. Metrics are by epoch; checkpoints are in a run's
`checkpoints/` and among its logged models."""


def described(kind: str, recipe: Recipe, name: str) -> str:
    """What a run is, in Markdown, for its page."""
    bits = "1W32A" if recipe.a32 else "1W1A"
    warm_up = "with" if recipe.warm_up else "without"
    return (
        f"**{kind}** of `{name}`: {recipe.model} ({bits}) on {recipe.dataset}, {recipe.epochs} "
        f"epochs, seed {recipe.seed}.\n\n"
        f"lr {recipe.lr:.4g} {warm_up} warm-up, t from {recipe.Tmin:.4g} to {recipe.Tmax:.4g}, "
        "rotations updated every "
        f"{recipe.rotation_update} epoch(s). Its checkpoints are artifacts and logged models: "
        '`mlflow.pytorch.load_model("models:/MODEL_ID")`.'
    )
