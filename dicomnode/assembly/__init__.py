"""From instances on disk to one volume in the patient: headers, the geometry gate, pixels, resampling.

Import the modules, not this package: only `resample` needs SimpleITK, and the decoding process must start fast.
"""
