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
from tune.sweep.table import BASELINE, METRIC, TrialRow, ranked

TEST = "test/top1"


@dataclass
class Setting:
    """A trial of the search under confirmation, val/top1 and test/top1 (percent) by seed."""

    number: int
    val: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """What settings are compared by: the test set where there is one."""
        return self.test or self.val


@dataclass(frozen=True)
class Difference:
    """Of two means, in points; `margin` is noise, None where seeds are too few to say."""

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
    parts = [statistics.variance(scores) / len(scores) for scores in (ours, theirs)]
    total = sum(parts)
    if total == 0:
        return Difference(points, 0.0)
    from scipy.stats import t  # scikit-learn brings scipy

    freedom = total**2 / (parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (len(theirs) - 1))
    return Difference(points, float(t.ppf(0.975, freedom)) * math.sqrt(total))


def chosen(rows: Mapping[int, TrialRow], top: int) -> list[int]:
    """The trials to confirm: the best `top` complete ones, and the documented default."""
    complete = [row.number for row in ranked(rows.values()) if row.state == "complete"]
    best = complete[:top]
    if best and BASELINE in rows and BASELINE not in best:
        best.append(BASELINE)
    return best


def num_confirming(top: int, num_seeds: int, num_trials: int | None) -> int:
    """Runs of a confirmation before it is known what it confirms, at most."""
    settings = top + 1 if num_trials is None else min(top + 1, num_trials)
    return settings * num_seeds


def settings_of(study: Study) -> list[Setting]:
    """What the finished confirmation runs of a sweep say, the best mean val/top1 first."""
    found: dict[int, Setting] = {}
    for trial in study.trials(TrialState.COMPLETE):
        number = trial.user_attrs["setting"]
        setting = found.setdefault(number, Setting(number))
        setting.val.append(trial.value or 0.0)
        if TEST in trial.user_attrs:
            setting.test.append(trial.user_attrs[TEST])
    return sorted(found.values(), key=lambda setting: -statistics.fmean(setting.val))


def default_of(settings: Sequence[Setting]) -> Setting | None:
    """The documented default among them."""
    return next((setting for setting in settings if setting.number == BASELINE), None)


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
    default = default_of(settings)
    rows = [("trial", "seeds", METRIC, TEST, "against the documented default")]
    for one in settings:
        scores = str(len(one.val)), spread(one.val), spread(one.test)
        rows.append((str(one.number), *scores, against_default(one, default)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for row in rows:
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]))
    tested = any(one.test for one in settings)
    where = "the test set, evaluated once after each run" if tested else "the validation split"
    note = f"seeds that the search did not use; compared on {where}; noise: Welch's t, 95 %"
    return [*lines, f"mean and standard deviation over {note}"]
