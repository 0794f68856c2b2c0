"""``python -m smidgen`` is the command ``smidgen``."""

from smidgen.cli import main

main()
