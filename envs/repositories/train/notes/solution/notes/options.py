"""Arguments in words and options."""

COMMANDS = ("add", "list")


class OptionError(Exception):
    """Arguments that cannot be understood."""


def parse(arguments):
    """Return the command, its words, and the limit, which is None if there is none."""
    if not arguments or arguments[0] not in COMMANDS:
        raise OptionError(f"say one of: {', '.join(COMMANDS)}")
    command, *rest = arguments
    words, limit = [], None
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            words += rest
            break
        if name == "--limit":
            if not equals:
                value = rest.pop(0) if rest else ""
            if not value.isdecimal():
                raise OptionError("--limit needs a number")
            limit = int(value)
        elif argument.startswith("--"):
            raise OptionError(f"unknown option {argument}")
        else:
            words.append(argument)
    return command, words, limit
