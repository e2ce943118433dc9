"""What a run amounts to: key figures, the ledger, and which curves its rounds can draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedcore.report.charts.charts import LineChart, StackChart, line_chart, stack_chart
from fedcore.report.read.run import KINDS, Run, Turn, Visit, highest

_SURVEYS = {
    "knn": (
        "Probe: accuracy of nearest neighbours",
        "How well frozen features tell the classes apart; higher is better.",
    ),
    "linear": ("Linear probe", "Accuracy of a linear layer on frozen features; higher is better."),
    "feature_std": (
        "Collapse gauge: spread of the features",
        "Mean standard deviation per dimension; near 0 is collapse.",
    ),
    "effective_rank": (
        "Effective rank of the features",
        "How many dimensions carry the features; near 1 is collapse.",
    ),
}
MOST_SENSITIVE = "Most sensitive data sent"
_MEANING = {
    "WEIGHTS": "model weights and number of images",
    "STATISTICS": "statistics over images",
    "FEATURES": "feature vectors of single images",
    "SAMPLES": "images or samples like them",
}


@dataclass(frozen=True)
class Entry:
    """A site's line of the ledger; `up` and `down` are bytes by kind over `visits` visits."""

    site: str
    visits: int
    refused: int
    up: Mapping[str, int]
    down: Mapping[str, int]
    reveals: str
    audited: int
    audited_bytes: int


@dataclass(frozen=True)
class Left:
    """What left all sites under one name."""

    field: str
    reveals: str
    count: int
    size: int


def meaning(level: str) -> str:
    """A level in plain words, the same wherever a run says what left."""
    return _MEANING.get(level, "")


def level_sentence(level: str) -> str:
    """As a line of the terminal."""
    return f"{MOST_SENSITIVE}: {level} ({meaning(level)})" if level else "Nothing has left a site yet"


def kinds(run: Run) -> tuple[str, ...]:
    """The kinds of bytes the run sent, the known ones first."""
    sent = {kind for visit in _visits(run) for kind in (*visit.up, *visit.down)}
    return (*(kind for kind in KINDS if kind in sent), *sorted(sent - set(KINDS)))


def per_visit(run: Run, way: Callable[[Visit], Mapping[str, int]]) -> float | None:
    """Mean bytes of a visit, up or down."""
    sizes = [sum(way(visit).values()) for visit in _visits(run)]
    return fmean(sizes) if sizes else None


def probes(run: Run) -> list[tuple[int, float]]:
    """(round, mean kNN accuracy over the surveyed sites) of each round that has one."""
    return [
        (turn.index, fmean(found))
        for turn in run.turns
        if (found := [survey["knn"] for survey in turn.survey.values() if "knn" in survey])
    ]


def best_probe(run: Run) -> tuple[float, int] | None:
    """The highest mean kNN accuracy, and its round."""
    means = [(value, at) for at, value in probes(run)]
    return max(means, key=lambda pair: pair[0], default=None)


def highest_revelation(run: Run) -> str:
    """Of all that the server got, in rounds and outside of them; "" where nothing has left yet."""
    return highest([visit.reveals for visit in [*_visits(run), *answers(run)]])


def answers(run: Run) -> list[Visit]:
    """What sites were asked outside of rounds."""
    return [visit for answer in run.answers for visit in answer.values()]


def disagreements(run: Run) -> list[str]:
    """Sites whose own audit file lists something more sensitive than the server's record has of them."""
    told = []
    for site, audit in run.audits.items():
        listed, booked = (highest(levels) for levels in ([one.reveals for one in audit.values()], _booked(run, site)))
        if booked and highest([listed, booked]) != booked:
            told.append(f"The audit of {site} lists {listed}, the run's own record of that site {booked} at most.")
    return told


def _booked(run: Run, site: str) -> list[str]:
    sent = [turn.visits for turn in run.turns] + list(run.answers)
    return [visits[site].reveals for visits in sent if site in visits]


def ledger(run: Run) -> tuple[Entry, ...]:
    return tuple(_entry(run, site) for site in run.sites)


def _entry(run: Run, site: str) -> Entry:
    visits = [turn.visits[site] for turn in run.turns if site in turn.visits]
    left = run.audits.get(site, {}).values()
    return Entry(
        site=site,
        visits=len(visits),
        refused=sum(site in turn.refused for turn in run.turns),
        up={kind: sum(visit.up.get(kind, 0) for visit in visits) for kind in kinds(run)},
        down={kind: sum(visit.down.get(kind, 0) for visit in visits) for kind in kinds(run)},
        reveals=highest(_booked(run, site)),
        audited=sum(one.count for one in left),
        audited_bytes=sum(one.size for one in left),
    )


def departures(run: Run) -> tuple[Left, ...]:
    """What left, by name, over all sites; the largest first."""
    left: dict[str, Left] = {}
    for audit in run.audits.values():
        for field, one in audit.items():
            before = left.get(field, Left(field, "", 0, 0))
            reveals = highest([before.reveals, one.reveals])
            left[field] = Left(field, reveals, before.count + one.count, before.size + one.size)
    return tuple(sorted(left.values(), key=lambda one: (-one.size, one.field)))


def curves(run: Run, value: Callable[[Turn, str], float | None]) -> dict[str, list[tuple[int, float]]]:
    """Site -> (round, value) where there is one; sites without any are left out."""
    found = {
        site: [(turn.index, at) for turn in run.turns if (at := value(turn, site)) is not None] for site in run.sites
    }
    return {site: points for site, points in found.items() if points}


def training_charts(run: Run) -> tuple[LineChart, ...]:
    """Loss and duration of the visits."""
    loss = curves(run, lambda turn, site: turn.visits[site].metrics.get("loss") if site in turn.visits else None)
    seconds = curves(run, lambda turn, site: turn.visits[site].seconds if site in turn.visits else None)
    refused = {
        site: [(turn.index, turn.refused[site]) for turn in run.turns if site in turn.refused] for site in run.sites
    }
    caption = "Mean training loss of a visit, by round."
    if any(refused.values()):
        caption += " A cross marks a round that refused the site."
    pace = "The slowest site sets the pace of a round."
    charts = [line_chart("Loss", caption, loss, crosses=refused)] if loss else []
    charts += [_loss_chart(run, name) for name in _losses(run)]
    charts += [line_chart("Seconds of a visit", pace, seconds, zero=True)] if seconds else []
    return tuple(charts)


def _losses(run: Run) -> list[str]:
    """Further losses of a visit: a painter's beside its critic's."""
    return sorted({name for visit in _visits(run) for name in visit.metrics if name.endswith("_loss")})


def _loss_chart(run: Run, name: str) -> LineChart:
    points = curves(run, lambda turn, site: turn.visits[site].metrics.get(name) if site in turn.visits else None)
    return line_chart(name.replace("_", " ").capitalize(), "Its mean over a visit, by round.", points)


def survey_charts(run: Run) -> tuple[LineChart, ...]:
    """A chart for each measure of the surveys, the known ones first."""
    measured = {name for turn in run.turns for survey in turn.survey.values() for name in survey}
    known = [name for name in _SURVEYS if name in measured]
    return tuple(_survey_chart(run, name) for name in [*known, *sorted(measured - {*known, "images"})])


def _survey_chart(run: Run, name: str) -> LineChart:
    """The gauges of collapse start at 0, which is what they warn of."""
    title, caption = _SURVEYS.get(name, (name.replace("_", " ").capitalize(), "Measured by survey, by round."))
    points = curves(run, lambda turn, site: turn.survey.get(site, {}).get(name))
    spread = name == "feature_std"
    even = (1.0, "1, spread evenly") if spread else None
    return line_chart(title, caption, points, reference=even, zero=spread or name == "effective_rank")


def ledger_charts(run: Run) -> tuple[StackChart, ...]:
    """Bytes up and down by round, over all sites, on one scale."""
    ups = [(turn.index, _sum(turn, lambda visit: visit.up, kinds(run))) for turn in run.turns]
    downs = [(turn.index, _sum(turn, lambda visit: visit.down, kinds(run))) for turn in run.turns]
    top = float(max((sum(sizes.values()) for _, sizes in ups + downs), default=0))
    if not top:
        return ()
    return (
        stack_chart("Up, from the sites", "All sites together, by round.", ups, top=top),
        stack_chart("Down, to the sites", "On the same scale.", downs, top=top),
    )


def _sum(turn: Turn, way: Callable[[Visit], Mapping[str, int]], names: Sequence[str]) -> dict[str, int]:
    return {kind: sum(way(visit).get(kind, 0) for visit in turn.visits.values()) for kind in names}


def _visits(run: Run) -> list[Visit]:
    return [visit for turn in run.turns for visit in turn.visits.values()]
