"""What the listener accepts: SOP classes, and the transfer syntaxes that assembly can decode.

The UIDs stand here as literals because importing a dictionary of thousands costs the listener's start.
"""

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model

STORAGE_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    }
)

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

UNCOMPRESSED = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)

# In the order in which we choose when a peer leaves the choice to us: what is cheap to decode first. Deflated is
# missing on purpose (1 MB of it can become gigabytes), and so is everything that assembly cannot decode.
STORAGE_SYNTAXES = (
    *UNCOMPRESSED,
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    EXPLICIT_BIG,
)


def syntaxes_of(sop_class_uid: str, *, may_store: bool) -> tuple[str, ...]:
    """Transfer syntaxes in which we accept a SOP class, best first; empty for a class we do not serve."""
    if sop_class_uid in STORAGE_CLASSES:
        return STORAGE_SYNTAXES if may_store else ()
    return UNCOMPRESSED if sop_class_uid in (VERIFICATION, STORAGE_COMMITMENT) else ()
