"""The script that completes commands, options, settings and their values in bash, and in zsh.

It is made of the parsers and has all words in it, so that completing starts no Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator

from areal.arguments import Parser

_SCRIPT = """\
# Completes areal in bash and in zsh. `areal completion` makes it: after an update, make it anew.
_areal() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local word name="" words="" keys="" whole=""
    # To bash --option=value and key=value are three words, to zsh they are one.
    if [ "$current" = "=" ]; then
        before="$before=" current=""
    elif [[ "$current" == *=* ]]; then
        before="${current%%=*}=" whole="${current%%=*}=" current="${current#*=}"
    elif [ "$before" = "=" ]; then
        before="${COMP_WORDS[COMP_CWORD - 2]}="
    fi
    [ "$COMP_CWORD" -gt 1 ] && name=${COMP_WORDS[1]}
    [ "$COMP_CWORD" -gt 2 ] && case "$name ${COMP_WORDS[2]}" in
    @PAIRS@) name="$name ${COMP_WORDS[2]}" ;;
    esac
    case "$before" in
@VALUES@
    *=) ;;
    *)
        case "$name" in
@COMMANDS@
        esac
        ;;
    esac
    [ -n "$keys" ] && words="$words @KEYS@"
    COMPREPLY=()
    while IFS="" read -r word; do
        COMPREPLY+=("$whole$word")
    done < <(
        if [ -n "$whole" ] && [ -z "$words" ]; then
            compgen -f -- "$current"
        else
            compgen -W "$words" -- "$current"
        fi
    )
    if [[ "${COMPREPLY[0]}" == *[=.] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}
if [ -n "$ZSH_VERSION" ]; then
    autoload -U +X compinit && compinit
    autoload -U +X bashcompinit && bashcompinit
    complete -o bashdefault -o default -o nospace -F _areal areal
else
    complete -o bashdefault -o default -F _areal areal
fi
"""
_MAPPING = "names with values"
"""What is said of settings like env_options, whose values have names of their own."""
_QUOTED = re.compile(r"`([\w.+-]+)`")


def script(parser: Parser) -> str:
    """Return the script; where it offers nothing, the shell offers files."""
    from areal.config.describe import describe_group, groups

    settings = {setting.key: setting.value for group in groups() for setting in describe_group(group)}
    values = dict(_taken(parser))
    values |= {f"{key}=": _QUOTED.findall(value) for key, value in settings.items()}
    for key, words in _names().items():
        values |= {name: words for name in (f"{key}=", f"--{key}") if name in values}
    commands = dict(_commands("", parser))
    pairs = [f'"{name}"' for name in commands if " " in name]
    filled = {
        "@PAIRS@": " | ".join(pairs),
        "@VALUES@": "\n".join(_value_cases(values)),
        "@COMMANDS@": "\n".join(f'        "{name}") {body} ;;' for name, body in commands.items()),
        "@KEYS@": " ".join(f"{key}{'.' if value == _MAPPING else '='}" for key, value in settings.items()),
    }
    return re.sub("@[A-Z]+@", lambda place: filled[place.group()], _SCRIPT)


def _names() -> dict[str, list[str]]:
    """Return the names that options and settings take, of what is installed here."""
    from areal import recipes
    from areal.config.objective import PRESETS
    from areal.registry import agents, benchmarks, env_names

    return {
        "env": env_names(),
        "agent": agents.names(),
        "recipe": recipes.names(),
        "benchmark": benchmarks.names(),
        "learner.objective": list(PRESETS),
    }


def _taken(parser: Parser) -> Iterator[tuple[str, list[str]]]:
    """Yield the options that take a value, with the values that the parser lists."""
    for action in parser._actions:
        if action.nargs != 0:
            yield from ((option, [str(choice) for choice in action.choices or ()]) for option in _of(action))
    for inner in parser.commands.values():
        yield from _taken(inner)


def _of(action: argparse.Action) -> list[str]:
    return [option for option in action.option_strings if option not in ("-h", "--help")]


def _value_cases(values: dict[str, list[str]]) -> Iterator[str]:
    """Yield what sets the words behind an option or a key; for most there are none."""
    free = []
    for name, words in values.items():
        pattern = name if name.endswith("=") else f"{name} | {name}="
        if words:
            yield f"    {pattern}) {_words(words)} ;;"
        elif not name.endswith("="):
            free.append(pattern)
    yield f"    {' | '.join(free)}) ;;"


def _commands(name: str, command: Parser, after: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the name of each command, and what sets the words behind it.

    ``after`` has the words that make another command of this one: ``eval rescore`` is another than ``eval``.
    """
    inner = command.commands
    options = [option for action in command._actions for option in _of(action)]
    body = _words([*(word for word in inner if " " not in word), *options])
    if any(action.dest == "overrides" for action in command._actions):
        body += " keys=yes"
    if more := " ".join(after):
        body += f'; [ "$COMP_CWORD" = 2 ] && words="$words {more}"'
    yield name, body
    for word, one in inner.items():
        others = [other.removeprefix(f"{word} ") for other in inner if other.startswith(f"{word} ")]
        yield from _commands(f"{name} {word}".strip(), one, others)


def _words(words: Iterable[str]) -> str:
    return f'words="{" ".join(words)}"'
