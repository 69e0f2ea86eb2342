"""Results as DICOM objects, the check of their bytes, and pictures of them. Owns highdicom and Pillow."""

from dicomnode.encoding.consistency import check_seg
from dicomnode.encoding.frames import has_findings
from dicomnode.encoding.kinds import KINDS, ResultKind
from dicomnode.encoding.reading import read_back
from dicomnode.encoding.request import EncodedObject, EncodingRequest, ResultUids, result_uids
from dicomnode.encoding.seg import encode_seg

__all__ = [
    "KINDS",
    "EncodedObject",
    "EncodingRequest",
    "ResultKind",
    "ResultUids",
    "check_seg",
    "encode_seg",
    "has_findings",
    "read_back",
    "result_uids",
]
