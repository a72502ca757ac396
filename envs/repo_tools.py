"""The tools of ``repo-v1`` that read and change a repository.

The repository is a dict of texts by path. No tool accesses a file of this machine, so there are no links to
follow and no paths that lead outside. Files only exist in the sandbox, while code runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from areal.envs.tool_calls import ToolError, ToolSpec

LARGEST_FILE = 256 << 10
"""Maximum number of characters of a file."""
LARGEST = 1 << 20
"""Maximum number of characters of all files together."""
MOST_FILES = 200
MOST_HITS = 50
LONGEST_READ = 400
"""Maximum number of lines that one call shows."""
_LONGEST_PATH = 200


_PATH = ("string", "path of a file in the repository")
TOOLS = (
    ToolSpec("list_files", "list the files of the repository", {}),
    ToolSpec(
        "read_file",
        "show lines of a file with their numbers",
        {"path": _PATH, "start": ("integer", "first line"), "end": ("integer", "last line")},
        ("start", "end"),
    ),
    ToolSpec(
        "search",
        "show the lines that contain a text",
        {"text": ("string", "the text to search for"), "path": ("string", "the file or folder to search")},
        ("path",),
    ),
    ToolSpec(
        "edit_file",
        "replace a text that occurs exactly once in a file",
        {"path": _PATH, "old": ("string", "text to replace"), "new": ("string", "the new text")},
    ),
    ToolSpec("write_file", "create or overwrite a file", {"path": _PATH, "content": ("string", "its text")}),
    ToolSpec("delete_file", "delete a file", {"path": _PATH}),
    ToolSpec(
        "run_tests",
        "run the tests of the repository",
        {"path": ("string", "one file of tests; without it, all tests run")},
        ("path",),
    ),
    ToolSpec("submit", "submit the repository in its current state and end the task", {}),
)
BY_NAME = {tool.name: tool for tool in TOOLS}


def known_path(path: str) -> str:
    """Return a path in the repository's form; raises ToolError if it cannot name a file there."""
    parts = path.removeprefix("./").split("/")
    if (
        len(path) > _LONGEST_PATH
        or any(part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > 100 for part in parts)
        or not path.isprintable()
        or "\\" in path
    ):
        raise ToolError(f"{path[:_LONGEST_PATH]!r} is not a path in the repository, such as 'folder/file.py'")
    return "/".join(parts)


class Repository:
    """The files of an episode.

    Args:
        files: their texts, by path.

    Attributes:
        files: their current texts, by path.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = dict(files)

    def list_files(self) -> str:
        """Return all paths."""
        return "\n".join(sorted(self.files))

    def read_file(self, path: str, start: int = 1, end: int | None = None) -> str:
        """Return lines of a file with their numbers."""
        lines = self._text(path).split("\n")
        last = min(len(lines) if end is None else end, start + LONGEST_READ - 1, len(lines))
        if not 1 <= start <= last:
            raise ToolError(f"{path} has only the lines 1 to {len(lines)}")
        shown = [f"{number}\t{lines[number - 1]}" for number in range(start, last + 1)]
        more = [f"(the file continues to line {len(lines)})"] if last < len(lines) else []
        return "\n".join([*shown, *more])

    def search(self, text: str, path: str = "") -> str:
        """Return the lines that contain the text."""
        if not text:
            raise ToolError("there is no text to search for")
        below = path.removeprefix("./").rstrip("/")
        hits = [
            f"{name}:{number}: {line[:200]}"
            for name in sorted(self.files)
            if below in ("", ".", name) or name.startswith(f"{below}/")
            for number, line in enumerate(self.files[name].split("\n"), 1)
            if text in line
        ]
        more = [f"({len(hits) - MOST_HITS} more)"] if len(hits) > MOST_HITS else []
        return "\n".join([*hits[:MOST_HITS], *more]) or "No line contains it."

    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace a text that occurs exactly once."""
        text = self._text(path)
        if (count := text.count(old) if old else 0) != 1:
            raise ToolError(f"the text to replace occurs {count} times in {path}; it must occur once")
        return self.write_file(path, text.replace(old, new))

    def write_file(self, path: str, content: str) -> str:
        """Create or overwrite a file."""
        path = known_path(path)
        self._check_place(path)
        others = sum(len(text) for name, text in self.files.items() if name != path)
        if len(content) > LARGEST_FILE or others + len(content) > LARGEST:
            raise ToolError(f"{path} would be too large")
        if path not in self.files and len(self.files) >= MOST_FILES:
            raise ToolError(f"the repository has {MOST_FILES} files, and cannot have more")
        # Text that cannot be encoded is not the text of a file.
        self.files[path] = content.encode("utf-8", "replace").decode("utf-8")
        return f"{path} was written."

    def delete_file(self, path: str) -> str:
        """Delete a file."""
        self._text(path)
        del self.files[known_path(path)]
        return f"{path} was deleted."

    def _text(self, path: str) -> str:
        try:
            return self.files[known_path(path)]
        except KeyError:
            raise ToolError(f"the file '{path}' does not exist; list_files shows all files") from None

    def _check_place(self, path: str) -> None:
        """Refuse a file in place of a folder, and a folder in place of a file."""
        for name in self.files:
            if name.startswith(f"{path}/") or path.startswith(f"{name}/"):
                raise ToolError(f"{path} cannot be a file, because {name} exists")
