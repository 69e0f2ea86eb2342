"""Results as DICOM objects, the check of their bytes, and pictures of them. Owns highdicom."""

from dicomnode.encoding.consistency import check_seg
from dicomnode.encoding.frames import has_findings
from dicomnode.encoding.request import EncodedObject, EncodingRequest, ResultUids, result_uids
from dicomnode.encoding.seg import encode_seg

__all__ = [
    "EncodedObject",
    "EncodingRequest",
    "ResultUids",
    "check_seg",
    "encode_seg",
    "has_findings",
    "result_uids",
]
