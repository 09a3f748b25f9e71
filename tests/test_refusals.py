"""Messages: each of the table begins as it should, and none of the package is without a test unnoticed."""

from __future__ import annotations

from collections import Counter

import pytest
import refusals
from refusals import CASES, PACKAGE, UNTESTED, Case, Site


@pytest.fixture(scope="module")
def everything() -> list[Site]:
    return refusals.sites()


@pytest.fixture(scope="module")
def provoked(tmp_path_factory) -> dict[str, refusals.Provoked]:
    folder = tmp_path_factory.mktemp("refusals")
    return {case.name: refusals.provoke(case, folder / str(k)) for k, case in enumerate(CASES)}


def test_names_are_told_apart():
    assert len({case.name for case in CASES}) == len(CASES) > 90


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_says_so(case: Case, provoked: dict[str, refusals.Provoked]):
    message = provoked[case.name].message
    # What comes before it is the place.
    place, _, rest = message.partition(case.start)
    assert case.start in message, message
    assert not place or place.endswith(": "), message
    assert message.isprintable()
    assert len(message) < 600
    assert "Traceback" not in message
    assert not rest.endswith(("\n", " "))


def test_every_message_is_provoked_quoted_or_listed(everything, provoked):
    """A new error comes with a case here, a test that quotes it, or a line in the list."""
    hit = set()
    for found in provoked.values():
        here = refusals.places(found, everything)
        assert here, f"{found} was raised by no place that is known"
        hit |= here
    tested = hit | refusals.quoted(everything)
    left = [site for site in everything if site.key not in tested]
    counts = Counter(site.module for site in left)
    wrong = [
        f"{module}: {counts[module]} untested, {UNTESTED.get(module, (0, ''))[0]} in the list: "
        + "; ".join(site.template for site in left if site.module == module)
        for module in sorted(counts.keys() | UNTESTED.keys())
        if counts[module] != UNTESTED.get(module, (0, ""))[0]
    ]
    assert not wrong, "\n".join(wrong)
    assert len(left) < 0.12 * len(everything)


def test_messages_end_without_a_full_stop(everything):
    """The parts are joined by the base class; advice is a sentence, what is wrong is none."""
    assert len(everything) > 500
    for site in everything:
        what = site.template.replace("...", "x").split("; expected ")[0].split(". ")[0]
        assert not what.endswith("."), site


def test_a_new_error_would_be_seen(everything, provoked):
    new = Site("data/store", 1, 1, "DataError", "the moon is full", ("moon is full, as no",))
    assert new.key not in refusals.quoted([*everything, new])
    assert (PACKAGE / "data/store.py").is_file()
