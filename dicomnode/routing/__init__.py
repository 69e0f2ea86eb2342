"""Which models and which destinations a series gets: rules from node.toml over the headers of all its instances."""

from dicomnode.routing.headers import SeriesHeaders, patient_key_of, read_series_headers
from dicomnode.routing.rules import Answer, Rule, build_rules, keywords_of, route

__all__ = [
    "Answer",
    "Rule",
    "SeriesHeaders",
    "build_rules",
    "keywords_of",
    "patient_key_of",
    "read_series_headers",
    "route",
]
