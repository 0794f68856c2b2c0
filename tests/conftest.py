"""What all tests share: no deadlines, since a loaded machine is no reason to fail."""

from hypothesis import settings

settings.register_profile("smidgen", deadline=None)
settings.load_profile("smidgen")
