"""The transfer syntaxes whose pixels the node reads; on its own, so that the decoding process need not load pydicom."""

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", EXPLICIT_BIG_ENDIAN})
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
COMPRESSED = JPEG_LOSSLESS | JPEG_LS | JPEG_2000 | {RLE_LOSSLESS}
# Deflated is left out on purpose (1 MB can become gigabytes), lossy 8-bit and 12-bit JPEG because no HU survive them.
SUPPORTED_SYNTAXES = NATIVE | COMPRESSED
