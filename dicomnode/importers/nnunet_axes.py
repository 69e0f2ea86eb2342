"""Along which axes of the patient the arrays of an nnU-Net's training were stored: said, known, or taken as usual."""

from dataclasses import dataclass

from dicomnode.errors import ModelError
from dicomnode.imaging.orientation import is_orientation
from dicomnode.importers.nnunet_plans import TrainedConfiguration

_AS_STORED = ("SimpleITKIO", "NibabelIO")  # readers that take the array as the file has it
_USUAL = "SPL"  # of an axial CT as scanners and dcm2niix order it
_TURNING = {"NibabelIOWithReorient": "SAR"}  # readers that turn every array -> to these axes
_AXES = ("slices", "rows", "columns")
_TOWARDS = {
    "S": "towards the head",
    "I": "towards the feet",
    "P": "towards the back",
    "A": "towards the front",
    "L": "to the left",
    "R": "to the right",
}


@dataclass(frozen=True, slots=True)
class StoredAxes:
    """The axes of the training arrays, and how far that is known."""

    axes: str
    reason: str
    is_guess: bool

    @property
    def sentence(self) -> str:
        """What was taken for granted, in words."""
        words = ", ".join(f"{axis} {_TOWARDS[letter]}" for axis, letter in zip(_AXES, self.axes, strict=True))
        return f"training arrays taken as {self.axes} ({words})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person who imports has to look at: a guess that the folder cannot confirm."""
        if not self.is_guess:
            return ()
        return (f"{self.sentence}; if the files were stored otherwise, import again with --orientation",)


def stored_axes(trained: TrainedConfiguration, said: str | None) -> StoredAxes:
    """The axes of the arrays that the network was trained on.

    Raises:
        ModelError: what was said is no orientation, or nothing was and the reader is unknown.
    """
    reader = trained.plans.image_reader_writer
    if said:
        if not is_orientation(said):
            raise ModelError(f"orientation: expected three letters, one of each of L/R, P/A and S/I, found {said!r}")
        return StoredAxes(said, "as said at the import", is_guess=False)
    if reader in _TURNING:
        return StoredAxes(_TURNING[reader], f"to which {reader} turns them", is_guess=False)
    if reader in _AS_STORED:
        return StoredAxes(_USUAL, f"which {reader} does not tell", is_guess=True)
    known = ", ".join((*_AS_STORED, *_TURNING))
    problem = f"expected one of {known}, found {reader!r}"
    raise ModelError(f"{trained.plans_file}: image_reader_writer: {problem}; name the orientation of its arrays")
