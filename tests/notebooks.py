"""The notebooks of examples/notebooks: each is run by a test, as Jupyter runs it or in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from pages import ROOT

NOTEBOOKS = ROOT / "examples/notebooks"


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def execute(name: str, folder: Path, before: str = "", **parameters: Any) -> str:
    """Run a notebook in a kernel, in a folder; return what it prints.

    Args:
        before: code that is run first.
        parameters: in place of the values in the cell with the tag ``parameters``.
    """
    notebook = read(name)
    cells = [nbformat.v4.new_code_cell(before)]
    for cell in notebook.cells:
        cells.append(cell)
        if "parameters" in cell.metadata.get("tags", ()):
            given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
            cells.append(nbformat.v4.new_code_cell(given))
    notebook.cells = cells
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


def code(name: str) -> Iterator[tuple[str, bool]]:
    """Yield the code of each cell, and whether it has the parameters."""
    for cell in read(name).cells:
        if cell.cell_type == "code":
            yield cell.source, "parameters" in cell.metadata.get("tags", ())
