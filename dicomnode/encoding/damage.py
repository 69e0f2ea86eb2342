"""What pydicom answers damaged bytes, or a missing attribute, with; none of it is promised."""

import struct

from pydicom.errors import BytesLengthException, InvalidDicomError

UNPARSEABLE = (
    *(InvalidDicomError, BytesLengthException, struct.error, EOFError, NotImplementedError),
    *(AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError),
)
