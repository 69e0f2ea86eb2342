"""What holds for every test: a busy machine is slow, and that is no failure of a property."""

from hypothesis import settings

settings.register_profile("dicomnode", deadline=None)
settings.load_profile("dicomnode")
