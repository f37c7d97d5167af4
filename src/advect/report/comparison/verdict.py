"""The verdict of a comparison: who has the highest likelihood, whose samples are nearest to real rows, whom to take.

Likelihoods are compared row by row on the same held-out rows, and only where they are of one kind. Samples are
compared by the mean place of their metrics between real rows (0) and a Gaussian fit (1).
"""

from collections.abc import Sequence

from advect.report.comparison.content import TOLD_APART, MethodRow
from advect.report.numerals import listed, number, percent, plus_minus


def samples_order(rows: Sequence[MethodRow]) -> list[MethodRow]:
    """The methods whose samples could be judged, best first."""
    return sorted((row for row in rows if row.share is not None), key=lambda row: row.share or 0.0)


def best_likelihood(rows: Sequence[MethodRow]) -> MethodRow | None:
    """The method of highest likelihood, of the kind of likelihood that most methods have."""
    scored = [row for row in rows if row.likelihood is not None and row.likelihood.value is not None]
    labels = [row.likelihood.label for row in scored if row.likelihood]
    common = max(labels, key=labels.count, default=None)
    return next(
        (row for row in scored if row.likelihood and row.likelihood.best and row.likelihood.label == common), None
    )


def winner(rows: Sequence[MethodRow]) -> MethodRow | None:
    """The method to take: among those whose samples cannot be told from the best, the one of highest likelihood."""
    order = samples_order(rows)
    if not order:
        return best_likelihood(rows) or next((row for row in rows if row.runs), None)
    near = [row for row in order if _as_near(row, order[0])]
    return max(near, key=_likelihood) if all(_likelihood(row) > float("-inf") for row in near) else order[0]


def _likelihood(row: MethodRow) -> float:
    return row.likelihood.mean if row.likelihood is not None else float("-inf")


def _as_near(row: MethodRow, best: MethodRow) -> bool:
    """Whether the shares differ by no more than their spreads over seeds explain."""
    assert row.share is not None
    assert best.share is not None
    noise = sum((one.share_spread or 0.0) ** 2 / max(len(one.runs), 1) for one in (row, best)) ** 0.5
    return row.share - best.share <= TOLD_APART * noise


def verdict(rows: Sequence[MethodRow]) -> tuple[str, ...]:
    """Sentences, the most important first."""
    usable = [row for row in rows if row.runs]
    if not usable:
        failed = all(row.failures for row in rows)
        return ("No method could be trained on these data." if failed else "No training is finished yet.",)
    found = [_summary(rows), _likelihood_words(rows), _samples_words(rows), _failures(rows)]
    return tuple(sentence for sentence in found if sentence)


def _summary(rows: Sequence[MethodRow]) -> str:
    chosen = winner(rows)
    if chosen is None:
        return ""
    leads = best_likelihood(rows)
    order = samples_order(rows)
    if len([row for row in rows if row.runs]) < 2:
        return f"{chosen.method} is the only method here with a finished run."
    if leads is chosen and (not order or order[0] is chosen):
        return (
            f"{chosen.method} leads, by likelihood and by samples."
            if order
            else f"{chosen.method} leads by likelihood."
        )
    if order and order[0] is chosen:
        return (
            f"{chosen.method} has the best samples; {leads.method} the highest likelihood."
            if leads
            else (f"{chosen.method} has the best samples.")
        )
    return (
        f"{chosen.method} is the one to take: its samples cannot be told from the best, and its likelihood is higher."
    )


def _likelihood_words(rows: Sequence[MethodRow]) -> str:
    best = best_likelihood(rows)
    if best is None or best.likelihood is None or best.likelihood.value is None:
        reasons = {row.likelihood.reason for row in rows if row.likelihood is not None and row.likelihood.reason}
        return f"There are no likelihoods to compare: {listed(sorted(reasons))}." if reasons else ""
    cell = best.likelihood
    peers = {r.method: r.likelihood for r in rows if r is not best and r.likelihood is not None}
    peers = {name: one for name, one in peers.items() if one.label == cell.label and one.difference is not None}
    tied = [name for name, one in peers.items() if one.tied]
    undecided = [name for name, one in peers.items() if one.undecided]
    behind = {name: one for name, one in peers.items() if not (one.tied or one.undecided)}
    words = (
        f"Held-out log-likelihood: {best.method}, {plus_minus(cell.mean, cell.standard_error)} nats per row "
        f"({cell.label})"
    )
    if tied:
        words += f"; {listed(tied)} within two standard errors of it"
    if undecided:
        words += f"; {listed(undecided)} below it, but by less than seeds vary"
    if behind:
        nearest, one = max(behind.items(), key=lambda item: item[1].difference or 0.0)
        gap = plus_minus(abs(one.difference or 0.0), one.difference_error)
        words += f"; the next, {nearest}, is {gap} below, paired row by row"
    return words + "."


def _samples_words(rows: Sequence[MethodRow]) -> str:
    order = samples_order(rows)
    if not order:
        return ""
    best, share = order[0], max(order[0].share or 0.0, 0.0)
    words = f"Samples: those of {best.method} are {percent(share)} of the way from real rows to a Gaussian fit"
    others = [f"{row.method} {percent(max(row.share or 0.0, 0.0))}" for row in order[1:]]
    return words + (f"; {listed(others, 6)}." if others else ".")


def _failures(rows: Sequence[MethodRow]) -> str:
    names = [row.method for row in rows if not row.runs]
    partly = [f"{row.method} ({len(row.runs)} of {row.asked} seeds)" for row in rows if row.runs and row.failures]
    sentences = []
    if names:
        sentences.append(f"{listed(names)} could not be used; the table says why.")
    if partly:
        sentences.append(f"Some seeds failed: {listed(partly)}.")
    return " ".join(sentences)


def seconds_words(seconds: float) -> str:
    """A budget as the terms of a comparison name it."""
    return f"{number(seconds)} s" if seconds < 120 else f"{number(seconds / 60)} min"
