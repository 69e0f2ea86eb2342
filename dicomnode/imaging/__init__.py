"""The nouns of the standard as frozen values. Knows numpy only."""

from dicomnode.imaging.geometry import Geometry
from dicomnode.imaging.instance import Instance, Series
from dicomnode.imaging.segmentation import CodedConcept, ModelIdentity, Segment, Segmentation
from dicomnode.imaging.uids import derived_uid, is_acceptable_uid, is_valid_uid
from dicomnode.imaging.verdict import Finding, Policy, Verdict
from dicomnode.imaging.volume import SampledVolume, SliceSource, Volume

__all__ = [
    "CodedConcept",
    "Finding",
    "Geometry",
    "Instance",
    "ModelIdentity",
    "Policy",
    "SampledVolume",
    "Segment",
    "Segmentation",
    "Series",
    "SliceSource",
    "Verdict",
    "Volume",
    "derived_uid",
    "is_acceptable_uid",
    "is_valid_uid",
]
