"""Whether what a sweep found is real: its best settings and the documented default, each trained
again with fresh seeds.

The winner of many trials was picked for its score, so its score flatters it. Every setting is
therefore trained with seeds that the search did not use, on the same images, and only then
evaluated on the test set: once each, after its last epoch.

d: difference of two means over seeds; s_i^2, n_i: variance and number of seeds. d exceeds the noise
where |d| > t(0.975, v) sqrt(s1^2/n1 + s2^2/n2), v after Welch and Satterthwaite: each comparison
errs in 5 % of cases without effect.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import TrialState

from tune.sweep.study import Study
from tune.sweep.table import BASELINE, METRIC, TrialRow, TrialTable

TEST = "test/top1"
SUFFIX = ".confirm"


@dataclass
class Setting:
    """A setting under confirmation: the search's trial number, and val/top1 and test/top1 (percent)
    by finished seed.
    """

    number: int
    val: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """What settings are compared by: the test set where there is one."""
        return self.test or self.val


@dataclass(frozen=True)
class Difference:
    """Of two means, in points. `margin`: what it must exceed to be more than noise; None where
    seeds are too few to say.
    """

    points: float
    margin: float | None

    @property
    def exceeds_noise(self) -> bool:
        return self.margin is not None and abs(self.points) > self.margin


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Welch's comparison of two means at 95 %; see the formula above."""
    points = statistics.fmean(ours) - statistics.fmean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return Difference(points, None)
    parts = [
        (statistics.variance(scores) / len(scores), len(scores) - 1) for scores in (ours, theirs)
    ]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Difference(points, 0.0)
    from scipy.stats import t  # scikit-learn brings scipy

    freedom = total**2 / sum(part**2 / n for part, n in parts)
    return Difference(points, float(t.ppf(0.975, freedom)) * math.sqrt(total))


def chosen(rows: Mapping[int, TrialRow], top: int) -> list[int]:
    """The trials to confirm: the best `top` complete ones, then the documented default where it is
    not among them.
    """
    ranked = [
        row.number for row in TrialTable("", None, 0, dict(rows)).ranked if row.state == "complete"
    ][:top]
    return ranked + ([0] if ranked and 0 in rows and 0 not in ranked else [])


def num_confirming(top: int, num_seeds: int, num_trials: int | None) -> int:
    """Runs of a confirmation before it is known what it confirms, about: the documented default may
    be among the best.
    """
    settings = top + 1 if num_trials is None else min(top + 1, num_trials)
    return settings * num_seeds


def settings_of(history: Study) -> list[Setting]:
    """What the finished confirmation runs of a sweep say, the best mean val/top1 first."""
    found: dict[int, Setting] = {}
    for trial in history.trials(TrialState.COMPLETE):
        setting = found.setdefault(
            trial.user_attrs["setting"], Setting(trial.user_attrs["setting"])
        )
        setting.val.append(trial.value or 0.0)
        if TEST in trial.user_attrs:
            setting.test.append(trial.user_attrs[TEST])
    return sorted(found.values(), key=lambda setting: -statistics.fmean(setting.val))


def spread(scores: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, e.g. `85.60 ± 0.31`."""
    if not scores:
        return "-"
    deviation = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.2f}{deviation}"


def against_default(setting: Setting, default: Setting | None) -> str:
    """The difference from the documented default, and whether it exceeds the noise, in words."""
    if default is None:
        return "the documented default did not finish"
    if setting is default:
        return "documented default"
    found = difference(setting.scores, default.scores)
    if found.margin is None:
        return f"{found.points:+.2f} points; one seed cannot tell it from noise"
    verb = "exceeds" if found.exceeds_noise else "is within"
    return f"{found.points:+.2f} points, {verb} the noise ({found.margin:.2f})"


def confirmation_table(settings: Sequence[Setting]) -> list[str]:
    """The settings with mean and deviation of validation and test score, as lines of text."""
    default = next((setting for setting in settings if setting.number == BASELINE), None)
    head = ("trial", "seeds", METRIC, TEST, "against the documented default")
    rows = [
        (
            str(one.number),
            str(len(one.val)),
            spread(one.val),
            spread(one.test),
            against_default(one, default),
        )
        for one in settings
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    aligned = [
        "  ".join(
            [text.rjust(width) for text, width in zip(row[:-1], widths[:-1], strict=True)]
            + [row[-1]]
        )
        for row in [head, *rows]
    ]
    note = "mean and standard deviation over seeds that the search did not use; compared on "
    where = (
        "the test set, evaluated once after each run"
        if any(one.test for one in settings)
        else "the validation split"
    )
    return [*aligned, note + where + "; noise: Welch's t, 95 %"]
