"""Bytes and levels by site: the table of traffic, its charts by round, and what the audit logs list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedcore.report.charts.stacked_bars import StackChart, stack_chart
from fedcore.report.read.levels import level_of_site
from fedcore.report.read.run import KINDS, RoundSummary, Run, SentTotal, VisitSummary


@dataclass(frozen=True)
class SiteTraffic:
    """A row of the table of traffic; `up` and `down` are bytes by kind over `visits` visits."""

    site: str
    visits: int
    failed: int
    up: Mapping[str, int]
    down: Mapping[str, int]
    reveals: str
    audited: int
    """Entries of the site's own audit log."""
    audited_bytes: int


def kinds(run: Run) -> tuple[str, ...]:
    """The kinds of bytes that the run sent, the known ones first."""
    sent = {kind for visit in run.visits for kind in (*visit.up, *visit.down)}
    return (*(kind for kind in KINDS if kind in sent), *sorted(sent - set(KINDS)))


def directions(run: Run) -> tuple[str, ...]:
    """Those that are on record."""
    return ("up", "down") if run.downloads else ("up",)


def per_visit(run: Run, direction: Callable[[VisitSummary], Mapping[str, int]]) -> float | None:
    """Mean bytes of a visit, up or down."""
    sizes = [sum(direction(visit).values()) for visit in run.visits]
    return fmean(sizes) if sizes else None


def site_traffic(run: Run) -> tuple[SiteTraffic, ...]:
    return tuple(_of_site(run, site) for site in run.sites)


def _of_site(run: Run, site: str) -> SiteTraffic:
    visits = [one.visits[site] for one in run.rounds if site in one.visits]
    log = run.audit_logs.get(site, {}).values()
    return SiteTraffic(
        site=site,
        visits=len(visits),
        failed=sum(site in one.refused for one in run.rounds),
        up={kind: sum(visit.up.get(kind, 0) for visit in visits) for kind in kinds(run)},
        down={kind: sum(visit.down.get(kind, 0) for visit in visits) for kind in kinds(run)},
        reveals=level_of_site(run, site),
        audited=sum(total.count for total in log),
        audited_bytes=sum(total.size for total in log),
    )


def sent_fields(run: Run) -> dict[str, SentTotal]:
    """What the audit logs of all sites list, by field; the largest first."""
    totals: dict[str, SentTotal] = {}
    for log in run.audit_logs.values():
        for field, one in log.items():
            totals[field] = totals.get(field, SentTotal()) + one
    return dict(sorted(totals.items(), key=lambda item: (-item[1].size, item[0])))


def traffic_charts(run: Run) -> tuple[StackChart, ...]:
    """Bytes up and down by round, over all sites, on one scale."""
    ups = [(one.index, _sum(one, lambda visit: visit.up, kinds(run))) for one in run.rounds]
    downs = [(one.index, _sum(one, lambda visit: visit.down, kinds(run))) for one in run.rounds]
    top = float(max((sum(sizes.values()) for _, sizes in ups + downs), default=0))
    if not top:
        return ()
    upload = stack_chart("Upload", "Sites to server, all sites, by round.", ups, top=top)
    download = stack_chart("Download", "Server to sites, on the same scale.", downs, top=top)
    return (upload, download)[: len(directions(run))]


def _sum(
    one: RoundSummary, direction: Callable[[VisitSummary], Mapping[str, int]], names: Sequence[str]
) -> dict[str, int]:
    return {kind: sum(direction(visit).get(kind, 0) for visit in one.visits.values()) for kind in names}
