"""The audit trail: what was done to which objects with which outcome, in a log that shows tampering."""

from dicomnode.audit.chain import AuditHead
from dicomnode.audit.log import AuditLog
from dicomnode.audit.record import AuditEvent, AuditOutcome, AuditRecord
from dicomnode.audit.verify import Verification, verify

__all__ = ["AuditEvent", "AuditHead", "AuditLog", "AuditOutcome", "AuditRecord", "Verification", "verify"]
