"""Which code a structure's name stands for: the project's own table for what models call their classes.

`structures.csv` is the table; its values are facts of SNOMED CT's free set for DICOM (PS3.16, CID 7150 and below) and
of the sources that its last column names. What is not in it gets no code: an import then asks for a mapping.
"""

from dicomnode.models.codes.structures import Coded, code_for, readable

__all__ = ["Coded", "code_for", "readable"]
