"""A DICOM-native PACS integration node: series in, checked segmentations out, every step on record."""

__version__ = "0.1.0"
