"""Reads metrics: of a process over HTTP, or of this one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

Sample = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""


def fetch(url: str) -> tuple[int, str]:
    """Read a page; return its status and its text."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def fetch_json(url: str) -> tuple[int, Any]:
    """Read a page of JSON."""
    status, text = fetch(url)
    return status, json.loads(text)


class Scrape:
    """Samples as they were at one moment."""

    def __init__(self, samples: dict[Sample, float]) -> None:
        self._samples = samples

    @classmethod
    def of(cls, address: str) -> Scrape:
        """Scrape a process."""
        status, text = fetch(f"{address}/metrics")
        assert status == 200
        families = list(text_string_to_metric_families(text))
        return cls({(each.name, frozenset(each.labels.items())): each.value for f in families for each in f.samples})

    @classmethod
    def here(cls, *metrics: Collector) -> Scrape:
        """Read metrics of this process."""
        families = [family for metric in metrics for family in metric.collect()]
        return cls({(each.name, frozenset(each.labels.items())): each.value for f in families for each in f.samples})

    def __getitem__(self, name: str) -> float:
        """Return the sum over all samples of a name."""
        return self.sum(name)

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum over all samples of a name with these labels, among others."""
        return sum(value for (found, its), value in self._samples.items() if found == name and its >= labels.items())

    def by(self, name: str, *labels: str) -> dict[Any, float]:
        """Return the samples of a name that are not 0, by one label's value or by those of several."""
        found: dict[Any, float] = {}
        for (each, its), value in self._samples.items():
            if each == name and value:
                values = tuple(dict(its)[label] for label in labels)
                key = values[0] if len(values) == 1 else values
                found[key] = found.get(key, 0) + value
        return found

    def names(self) -> set[str]:
        """List the names of all samples."""
        return {name for name, _ in self._samples}

    def labels(self) -> Iterable[tuple[str, str]]:
        """List the labels of all samples, with their values."""
        return [label for _, its in self._samples for label in its]

    def since(self, before: Scrape) -> Scrape:
        """Return how much was added since an earlier moment."""
        return Scrape({key: value - before._samples.get(key, 0) for key, value in self._samples.items()})
