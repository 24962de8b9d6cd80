"""Run docs/quickstart.md: write docs/quickstart.ipynb, and put what its blocks print into the page.

    python docs/quickstart.py

The text stands in the page alone. Its python and bash blocks become cells of the notebook; a text block holds what the
block before it printed. Needs nbclient and ipykernel (in the extra ``test``).
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).with_suffix(".md")
NOTEBOOK = Path(__file__).with_suffix(".ipynb")
BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```\n", re.M | re.S)


def notebook(page: str) -> nbformat.NotebookNode:
    """The page as a notebook without outputs; its text blocks, which are outputs, are left out.

    Links to other pages are kept: both files stand in the same folder.
    """
    language, kinds = None, []
    for number, piece in enumerate(BLOCK.split(page)):  # markdown, language, block, markdown, language, block, ...
        if number % 3 == 1:
            language = piece
        elif number % 3 == 0 and piece.strip():
            kinds.append(nbformat.v4.new_markdown_cell(piece.strip()))
        elif number % 3 == 2 and language != "text":
            magic = "%%bash\n" if language == "bash" else ""
            kinds.append(nbformat.v4.new_code_cell(magic + piece.strip()))
    for number, cell in enumerate(kinds):
        cell["id"] = f"cell-{number}"  # nbformat draws random ids
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=kinds, metadata={"kernelspec": kernel})


def execute(cells: nbformat.NotebookNode, folder: Path) -> None:
    """Run the cells in order in ``folder``, with this Python and its programs; their outputs are put into the notebook.

    Raises:
        CellExecutionError: a cell failed; it names the cell and what it printed.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    client = NotebookClient(
        cells,
        timeout=900,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, "PATH": path})


def plain(text: str) -> str:
    """Terminal output without colours and without spaces at the ends of lines."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).strip("\n").splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def printed(cell) -> str:
    """What a cell printed on standard output."""
    return plain("".join(output["text"] for output in cell["outputs"] if output.get("name") == "stdout"))


def filled(page: str, cells: nbformat.NotebookNode) -> str:
    """The page with each text block replaced by what the block before it printed."""
    code = iter([cell for cell in cells["cells"] if cell["cell_type"] == "code"])
    latest = None

    def replaced(match):
        nonlocal latest
        if match[1] != "text":
            latest = next(code)
            return match[0]
        return f"```text\n{printed(latest)}```\n"

    return BLOCK.sub(replaced, page)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    cells = notebook(page)
    with tempfile.TemporaryDirectory() as folder:
        execute(cells, Path(folder))
    for cell in cells["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                output["text"] = plain(output["text"])
    cells["metadata"].pop("language_info", None)  # the version of Python that happened to run it
    nbformat.write(cells, NOTEBOOK)
    PAGE.write_text(filled(page, cells), encoding="utf-8")


if __name__ == "__main__":
    main()
