"""What all tests share: no deadlines, since a loaded machine is no reason to fail; and a file with a program."""

from hypothesis import settings
from native import program_file

__all__ = ["program_file"]

settings.register_profile("smidgen", deadline=None)
settings.load_profile("smidgen")
