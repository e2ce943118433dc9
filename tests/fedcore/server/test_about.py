from __future__ import annotations

from dataclasses import replace

from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.summary import summarize
from fedcore.messages.agreement import Facts
from fedcore.privacy.policy import Policy
from fedcore.server.about import about_of
from fedcore.server.agreement import agree
from fedcore.site.facts import facts_of


def said() -> dict[str, Facts]:
    cohort = Phantoms(sites=2, images_per_site=8).cohort(16)
    return {
        site: facts_of(of.select("train"), of.select("test"), Policy(), cohort.classes, data=f"digest of {site}")
        for site, of in cohort.sites.items()
    }


def test_it_is_what_one_process_with_all_images_says() -> None:
    facts = said()
    found, expected = about_of(facts, agree(facts)), summarize(Phantoms(sites=2, images_per_site=8).cohort(16))
    assert found.keys() == expected.keys()
    assert found | {"data": ""} == expected | {"data": "", "classes": sorted(expected["classes"])}


def test_other_images_of_a_site_are_other_data() -> None:
    facts = said()
    other = facts | {"hospital_2": replace(facts["hospital_2"], data="another digest")}
    agreement = agree(facts)
    assert about_of(facts, agreement)["data"] == about_of(dict(facts), agreement)["data"]
    assert about_of(facts, agreement)["data"] != about_of(other, agreement)["data"]
