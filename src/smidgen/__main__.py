"""The command ``smidgen``; ``python -m smidgen`` is the same.

The library that reads command lines takes a fifth of the time in which a small network can be loaded and name a
picture. So the plainest command of all, ``smidgen recognize FILE PICTURE...``, goes past it; whatever is out of the
ordinary there goes through ``smidgen.cli``, which knows how to say it.
"""

import gc
import os
import sys

from smidgen.errors import SmidgenError


def main() -> None:
    """Runs one command and exits with its status."""
    command, *words = sys.argv[1:] or [""]
    plain = command == "recognize" and len(words) > 1 and not any(word.startswith("-") for word in words)
    if not (plain and "RANK" not in os.environ and _recognized(words[0], words[1:])):
        from smidgen.cli import main as by_command_line

        by_command_line()


def _recognized(file: str, pictures: list[str]) -> bool:
    """Whether all is done: nothing is printed before all answers are there."""
    from smidgen.run.recognizer import Recognizer, open_recognizer

    try:
        recognizer = open_recognizer(file)
        if not isinstance(recognizer, Recognizer):
            return False
        answers = {picture: recognizer.recognize(picture) for picture in pictures}
    except (SmidgenError, MemoryError):
        return False
    except KeyboardInterrupt:
        sys.exit("smidgen: interrupted; nothing that existed was changed")
    from smidgen.run.answer import lines

    gc.freeze()  # at the end of a process that did so little, a last search for garbage would be a part that counts
    try:
        print(*lines(answers), sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        sys.exit(1)
    return True


if __name__ == "__main__":
    main()
