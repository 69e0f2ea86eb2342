"""What each finding leads to unless the site says otherwise, and which answers make sense for it.

Refusing is always possible. Repairing is offered only where what is dropped or put right is certain; using a
series as it stands (`warn`) only where the volume would still be true.
"""

from collections.abc import Mapping, Sequence

from dicomnode.errors import ConfigError, UnusableSeries
from dicomnode.imaging import Finding, Policy, Verdict

_REFUSE, _REPAIR, _WARN = Policy.REFUSE, Policy.REPAIR, Policy.WARN

# Finding -> the policies that make sense, the default first.
POLICIES: Mapping[Finding, tuple[Policy, ...]] = {
    # Repair sets the file aside; if it was a slice, its place is then found missing.
    Finding.NOT_DICOM: (_REFUSE, _REPAIR),
    Finding.UNREADABLE_HEADER: (_REFUSE, _REPAIR),
    # Whose images these are, and in which space, is never guessed.
    Finding.MIXED_SERIES: (_REFUSE,),
    Finding.MIXED_STUDIES: (_REFUSE,),
    Finding.MIXED_PATIENTS: (_REFUSE,),
    Finding.MIXED_FRAMES_OF_REFERENCE: (_REFUSE,),
    # Neither of two contents carries a mark of being the right one.
    Finding.CONFLICTING_INSTANCE: (_REFUSE,),
    Finding.DUPLICATE_POSITION: (_REFUSE,),
    # Repair keeps one of equals.
    Finding.DUPLICATE_INSTANCE: (_REPAIR, _REFUSE),
    # Repair sets them aside.
    Finding.LOCALIZER: (_REPAIR, _REFUSE),
    Finding.NOT_A_SLICE: (_REPAIR, _REFUSE),
    Finding.WRONG_MODALITY: (_REFUSE, _REPAIR, _WARN),
    Finding.MISSING_GEOMETRY: (_REFUSE,),
    # Repair keeps what more than half of the slices share and sets the others aside.
    Finding.MIXED_ORIENTATION: (_REFUSE, _REPAIR),
    Finding.MIXED_MATRIX: (_REFUSE, _REPAIR),
    Finding.MIXED_PIXEL_SPACING: (_REFUSE, _REPAIR),
    # Repair shears the grid. The tilt is in the positions, so there is no volume without it.
    Finding.GANTRY_TILT: (_REPAIR, _REFUSE),
    # What was not imaged is not invented, and one affine cannot say where uneven slices are.
    Finding.MISSING_SLICES: (_REFUSE,),
    Finding.UNEVEN_SPACING: (_REFUSE,),
    Finding.TOO_FEW_SLICES: (_REFUSE,),
    Finding.TOO_LARGE: (_REFUSE,),
    Finding.IMPLAUSIBLE_GEOMETRY: (_REFUSE,),
    Finding.UNSUPPORTED_TRANSFER_SYNTAX: (_REFUSE,),
    Finding.TRUNCATED_PIXELS: (_REFUSE,),
    Finding.UNDECODABLE_PIXELS: (_REFUSE,),
}


def check_policies(policies: Mapping[Finding, Policy]) -> None:
    """Accept the site's choices, or say which one cannot be done.

    Raises:
        ConfigError: a finding is given a policy that has no meaning for it.
    """
    for finding, policy in policies.items():
        if policy not in POLICIES[finding]:
            allowed = " or ".join(f'"{choice}"' for choice in POLICIES[finding])
            raise ConfigError(f'[geometry] {finding}: expected {allowed}, found "{policy}"')


class VerdictBook:
    """The verdicts on one series, in the order in which they were found, each under the site's policy."""

    def __init__(self, policies: Mapping[Finding, Policy]) -> None:
        check_policies(policies)
        self._policies = policies
        self._verdicts: list[Verdict] = []

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What was found so far."""
        return tuple(self._verdicts)

    def policy(self, finding: Finding) -> Policy:
        """What the site wants done about a finding."""
        return self._policies.get(finding, POLICIES[finding][0])

    def add(self, finding: Finding, sentence: str, sop_instance_uids: Sequence[str]) -> Policy:
        """Record a finding; returns its policy."""
        policy = self.policy(finding)
        uids = tuple(dict.fromkeys(sop_instance_uids))
        self._verdicts.append(Verdict(finding, policy, sentence, uids))
        return policy

    def refuse(self, finding: Finding, sentence: str, sop_instance_uids: Sequence[str]) -> None:
        """Record a finding that cannot be repaired in this series, whatever the site prefers."""
        uids = tuple(dict.fromkeys(sop_instance_uids))
        self._verdicts.append(Verdict(finding, Policy.REFUSE, sentence, uids))

    def raise_if_refused(self) -> None:
        """Let a usable series pass.

        Raises:
            UnusableSeries: at least one verdict's policy is to refuse; it carries those verdicts first.
        """
        if any(verdict.policy is Policy.REFUSE for verdict in self._verdicts):
            ordered = sorted(self._verdicts, key=lambda verdict: verdict.policy is not Policy.REFUSE)
            raise UnusableSeries(ordered)
