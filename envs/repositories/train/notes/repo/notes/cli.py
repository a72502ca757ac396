"""The command line: what to print, and the exit code."""

from notes.options import OptionError, parse


def main(arguments, notes, write=print):
    """Do what the arguments ask for; return the exit code."""
    try:
        command, words, limit = parse(arguments)
        if command == "add":
            notes.add(" ".join(words))
            write(f"{len(notes.texts)} notes")
        else:
            for text in notes.newest(limit):
                write(text)
    except (OptionError, ValueError) as error:
        write(str(error))
        return 2
    return 0
