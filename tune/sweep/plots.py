"""What a report draws of a study, where Optuna must be asked."""

from __future__ import annotations

from optuna.trial import TrialState

from tune.sweep.study import Study

LEAST_FOR_IMPORTANCE = 4  # complete trials; fewer say nothing of what matters
Curve = list[tuple[int, float]]  # (epochs completed, value) in order


def curves_of(study: Study) -> dict[int, Curve]:
    """val/top1 in percent of every trial that reported an epoch, by number."""
    return {
        trial.number: sorted(trial.intermediate_values.items())
        for trial in study.trials()
        if trial.intermediate_values
    }


def importance_of(study: Study) -> dict[str, float]:
    """The share of each option in what tells good trials from others: PED-ANOVA over the complete
    ones, of the options that vary among them; empty where they are too few, or all equal.
    """
    complete = study.trials(TrialState.COMPLETE)
    scores = {trial.value for trial in complete}
    names = dict.fromkeys(name for trial in complete for name in trial.params)
    varied = [name for name in names if len({trial.params.get(name) for trial in complete}) > 1]
    if len(complete) < LEAST_FOR_IMPORTANCE or len(scores) < 2 or not varied:
        return {}
    from optuna.importance import get_param_importances  # a second: it loads scikit-learn

    return dict(get_param_importances(study.study, params=varied))
