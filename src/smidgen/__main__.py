"""The command ``smidgen``; ``python -m smidgen`` is the same.

The library that reads command lines takes a fifth of the time in which a small network can be loaded and name a
picture. So the plainest command of all, ``smidgen recognize FILE PICTURE...``, goes past it.
"""

import gc
import os
import sys

from smidgen.errors import SmidgenError, output_lost, told


def main() -> None:
    """Runs one command and exits with its status."""
    command, *words = sys.argv[1:] or [""]
    plain = command == "recognize" and len(words) > 1 and not any(word.startswith("-") for word in words)
    if plain and not {"RANK", "WORLD_SIZE"} & os.environ.keys():  # which torchrun sets
        try:
            _recognize(words[0], words[1:])
        except (SmidgenError, MemoryError, KeyboardInterrupt) as error:
            sys.exit(told(error))
        return
    from smidgen.cli import main as by_command_line

    by_command_line()


def _recognize(file: str, pictures: list[str]) -> None:
    gc.set_threshold(100_000)  # what is imported makes many objects and no garbage
    from smidgen.run.recognizer import open_recognizer

    recognizer = open_recognizer(file)
    answers = {picture: recognizer.recognize(picture) for picture in pictures}
    from smidgen.run.answer import lines

    gc.freeze()  # at the end of a process that did so little, a last search for garbage would be a part that counts
    if sys.stdout is not None:  # as it is where it was closed
        _print("\n".join(lines(answers)))


def _print(text: str) -> None:
    encoding = sys.stdout.encoding
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)  # a terminal may not have every letter
    except OSError as error:
        lost = output_lost(error)
        if isinstance(error, BrokenPipeError):  # who reads has gone, and knows
            sys.exit(1)
        raise lost from None


if __name__ == "__main__":
    main()
