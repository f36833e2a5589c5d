"""What a reader asks of an evaluation's results: which monitor, which sets, which row. Picked and put into words.

Nothing is computed here: every number that a report shows stands in `results.json`, and a section whose numbers are
not there is left out. Rates are those observed on so many images, never promises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from inlier.report.markup import fine_percent, nominal

__all__ = ["ATTACKS", "CHANGED", "JOINT", "Entry", "Findings", "counted", "label_of", "rates_of", "sentence"]

Entry: TypeAlias = Mapping[str, Any]
"""An object of `results.json`."""

ATTACKS = ("attack", "universal")
JOINT = "joint"
"""The kind of attacks made against a monitor, by who knows it."""
CHANGED = 0.1
"""Share of changed pixels from which `flagged_changed` counts an image."""
CAUGHT = 0.95
"""Share of flagged images from which a change is called caught."""
PREFERRED_RATE = 0.05
ABLATION, BASELINE = "ablation", "baseline"
"""How families begin that are told apart from the others."""


@dataclass(frozen=True)
class Findings:
    """The results of an evaluation, as a report asks for them.

    Args:
        results: what `inlier evaluate` leaves in results.json.
    """

    results: Mapping[str, Any]

    def all(self, name: str) -> list[Entry]:
        """A list of the results; empty if it is not there."""
        return list(self.results.get(name) or ())

    def published(self, s: Entry) -> Entry:
        """What a paper reports of a set's change; empty if nothing was given."""
        tables = (self.results.get("config") or {}).get("published") or ()
        return next((table for table in tables if table["of"] in (s["name"], s["change"])), {})

    @cached_property
    def monitors(self) -> list[Entry]:
        """All monitors, in the order of the results."""
        return self.all("monitors")

    @cached_property
    def main(self) -> Entry | None:
        """The monitor that the report is about: the one the results name, else the first with thresholds."""
        named = self.monitor(str(self.results.get("main")))
        if named is not None:
            return named
        return next((m for m in self.monitors if rates_of(m)), next(iter(self.monitors), None))

    @cached_property
    def rate(self) -> float | None:
        """The false-alarm rate of the headline: 5 % if it was asked for, else the largest; None without thresholds."""
        rates = rates_of(self.main)
        return None if not rates else PREFERRED_RATE if PREFERRED_RATE in rates else max(rates)

    @cached_property
    def compared(self) -> list[Entry]:
        """The monitors of the main comparison, the main one first; without ablations."""
        kept = [m for m in self.monitors if m is self.main or not is_ablation(m)]
        return sorted(kept, key=lambda m: m is not self.main)

    @cached_property
    def ablations(self) -> dict[str, list[Entry]]:
        """The monitors that vary one factor, by family."""
        by_family: dict[str, list[Entry]] = {}
        for entry in self.monitors:
            if entry is not self.main and is_ablation(entry):
                family = str(entry.get("family") or "").removeprefix(ABLATION).strip(" :-_/") or "settings"
                by_family.setdefault(family, []).append(entry)
        return by_family

    @cached_property
    def varied(self) -> Entry | None:
        """The monitor that ablations differ from in one setting, if that was said."""
        return self.monitor(str((self.results.get("config") or {}).get("varied")))

    def monitor(self, name: str) -> Entry | None:
        """The monitor of that name, if there is one."""
        return next((entry for entry in self.monitors if entry["name"] == name), None)

    def sets(self, *kinds: str, paper: bool | None = None) -> list[Entry]:
        """The sets of these kinds; of all without any. `paper` keeps those that the paper has, or those it has not."""
        return [
            entry
            for entry in self.all("sets")
            if (not kinds or entry["kind"] in kinds) and (paper is None or bool(entry.get("paper")) == paper)
        ]

    def set_label(self, name: str) -> str:
        """How a set is called on the page."""
        return next((label_of(entry) for entry in self.all("sets") if entry["name"] == name), name)

    @cached_property
    def _rows(self) -> dict[tuple[str, str], list[Entry]]:
        """Rows by monitor and set; one a seed."""
        by: dict[tuple[str, str], list[Entry]] = {}
        for row in self.all("rows"):
            by.setdefault((row["monitor"], row["set"]), []).append(row)
        return by

    def rows(self, monitor: Entry | None, tried: Entry) -> list[Entry]:
        """What a monitor made of a set, a row a seed; the seed of the first row is the one whose counts are shown."""
        return [] if monitor is None else self._rows.get((monitor["name"], tried["name"]), [])

    def row(self, monitor: Entry | None, tried: Entry) -> Entry | None:
        """What a monitor of the first seed made of a set."""
        return next(iter(self.rows(monitor, tried)), None)

    def summary(self, monitor: Entry, tried: str) -> Entry | None:
        """Mean and spread over seeds of a monitor on a set."""
        return self._summary.get((monitor["name"], tried))

    @cached_property
    def _summary(self) -> dict[tuple[str, str], Entry]:
        return {(entry["monitor"], entry["set"]): entry for entry in self.all("summary")}

    def flagged(self, monitor: Entry | None, tried: Entry, rate: float | None, which: str = "flagged") -> Entry | None:
        """hits, images and interval of a monitor's first seed on a set at a rate, if there were images."""
        return counted((self.row(monitor, tried) or {}).get(which), rate)

    def by_group(self, monitor: Entry | None, rate: float) -> Iterator[tuple[Entry, str, int, Entry]]:
        """(clean set, group, seed, counts) of a monitor's observed false alarms."""
        for tried in self.sets("clean"):
            for row in self.rows(monitor, tried):
                for group, by_rate in (row.get("by_group") or {}).items():
                    if (counts := counted(by_rate, rate)) is not None:
                        yield tried, group, row["seed"], counts

    def held_out(self, monitor: Entry | None, rate: float) -> Iterator[tuple[str, int, Entry]]:
        """(group, seed, counts) of false alarms on a group of the fit that was left out of fit and threshold."""
        for entry in self.all("held_out"):
            if monitor is not None and entry["monitor"] == monitor["name"]:
                counts = counted(entry.get("flagged"), rate)
                if counts is not None:
                    yield entry["group"], entry["seed"], counts

    @cached_property
    def fitted_groups(self) -> Mapping[str, int]:
        """How many clean images of each group the monitors were fitted to."""
        return (self.results.get("fitted_to") or {}).get("groups") or {}

    def attack_verdict(self, tried: Entry) -> str:
        """In the words of the protocol: broken at eps, or not broken by this suite.

        Broken means here that at least one image with a share of `CHANGED` or more of its pixels changed raised no
        alarm at the headline rate; how many did stands beside it.
        """
        changed = self.flagged(self.main, tried, self.rate, "flagged_changed")
        if changed is None:
            return "did no damage that could be missed" if tried.get("changed_images") == 0 else ""
        eps = (tried.get("settings") or {}).get("eps")
        missed, images = changed["images"] - changed["hits"], damaged_images(changed["images"])
        at = f" at eps {eps:.3g}" if isinstance(eps, float | int) else ""
        if missed:
            return f"broken{at}: {missed} of {images} raised no alarm"
        return f"not broken by this suite{at}: {images}, all flagged"

    @cached_property
    def verdict(self) -> list[str]:
        """The first paragraph: what was observed, sentence by sentence."""
        return list(self._verdict())

    def _verdict(self) -> Iterator[str]:
        if self.main is None:
            return
        yield f"The monitor of this report is {label_of(self.main)}."
        if self.rate is None:
            yield "It has no threshold here, so that only rankings (AUROC) are told."
            return
        yield (
            f"Its threshold was set on clean images alone, for a nominal false-alarm rate of {nominal(self.rate)}, and "
            "was not moved afterwards."
        )
        yield from self._false_alarms(self.rate)
        yield from self._caught(self.sets("perturbation", *ATTACKS, paper=True), "of the paper's")
        yield from self._attacks()

    def _false_alarms(self, rate: float) -> Iterator[str]:
        seen: set[tuple[str, str]] = set()
        told = []
        for tried, group, _, counts in self.by_group(self.main, rate):
            if (tried["name"], group) not in seen:
                seen.add((tried["name"], group))
                never = "" if group in self.fitted_groups else " (none of which it was fitted to)"
                told.append(f"{sentence(counts)} of {group}{never}")
        if told:
            yield f"False alarms observed on unchanged images: {'; '.join(told)}."

    def _caught(self, tried: Sequence[Entry], of: str) -> Iterator[str]:
        assert self.rate is not None
        found = [(s, counts) for s in tried if (counts := self.flagged(self.main, s, self.rate)) is not None]
        if not found:
            return
        caught = [s for s, counts in found if counts["hits"] >= CAUGHT * counts["images"]]
        weakest, counts = min(found, key=lambda pair: pair[1]["hits"] / pair[1]["images"])
        yield f"It flagged {nominal(CAUGHT)} or more of the images for {len(caught)} {of} {len(found)} changes."
        if len(caught) < len(found):
            yield f"Least was caught of {label_of(weakest)}: {sentence(counts)}."

    def _attacks(self) -> Iterator[str]:
        broken = [s for s in self.sets(*ATTACKS) if self.attack_verdict(s).startswith("broken")]
        judged = [s for s in self.sets(*ATTACKS) if self.attack_verdict(s)[:3] in ("bro", "not")]
        if judged:
            yield (
                f"Of {len(judged)} attacks that damage the prediction, {len(broken)} did so on at least one image "
                "without an alarm. None of these attackers knew of the monitor."
            )
        failed = [str(gate["name"]) for gate in self.all("gates") if gate["verdict"] == "FAIL"]
        if failed:
            yield f"Of the checks on the attackers {len(failed)} failed: {'; '.join(failed)}."


def rate_key(rate: float) -> str:
    """A rate as the results write it: 0.05."""
    return f"{rate:g}"


def counted(by_rate: Entry | None, rate: float | None) -> Entry | None:
    """The counts at a rate; None if there are none or no images."""
    counts = None if rate is None else (by_rate or {}).get(rate_key(rate))
    return counts if counts and counts["images"] else None


def sentence(counts: Entry) -> str:
    """`3 of 62 (4.8 %, 95 % interval 1.0 to 13 %)`."""
    low, high = counts["interval"]
    return (
        f"{counts['hits']} of {counts['images']} ({fine_percent(counts['hits'] / counts['images'])}, "
        f"95\N{NO-BREAK SPACE}% interval {fine_percent(low)} to {fine_percent(high)})"
    )


def damaged_images(number: int) -> str:
    return f"{number} damaged image{'s' * (number != 1)}"


def label_of(entry: Entry) -> str:
    """The label of a monitor or a set, else its name."""
    return str(entry.get("label") or entry["name"])


def rates_of(monitor: Entry | None) -> list[float]:
    """The rates for which a monitor has thresholds, smallest first; few clean images cannot keep small rates."""
    by_seed: Mapping[str, Entry] = (monitor or {}).get("thresholds") or {}
    kept: Entry = next(iter(by_seed.values()), {})
    return sorted(float(rate) for rate in kept)


def is_ablation(monitor: Entry) -> bool:
    """Whether a monitor is there to vary a factor: its family says so, or it is no baseline and has no threshold."""
    family = str(monitor.get("family") or "")
    return family.startswith(ABLATION) or not (rates_of(monitor) or family.startswith(BASELINE))
