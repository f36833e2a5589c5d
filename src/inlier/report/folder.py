"""What lies in the folder of an evaluation: its results are read, and report, sign-off sheet and tables written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlier.errors import Mismatch
from inlier.evaluation.results_file import FORMAT, RESULTS
from inlier.files import write_bytes
from inlier.report.document import document_html
from inlier.report.documents import DOCUMENTS
from inlier.report.evaluation_page import evaluation_page, sign_off_page
from inlier.report.evaluation_tables import evaluation_tables
from inlier.report.findings import Findings
from inlier.report.tables import write_tables

__all__ = ["read_results", "without_images", "write_report"]

REPORT, SIGN_OFF = "report.html", "sign_off.html"


def read_results(path: Path) -> dict[str, Any]:
    """The results of an evaluation, from its results.json or the folder it lies in.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: it holds something else, or results of another format.
    """
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"No results at '{file}'; name a folder that `inlier evaluate` wrote, or its {RESULTS}")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Mismatch(f"'{file}' is no JSON ({error}); it should be what `inlier evaluate` wrote") from error
    if not isinstance(results, dict) or "format" not in results:
        raise Mismatch(f"'{file}' does not say what format it has; expected results of `inlier evaluate`")
    if results["format"] != FORMAT:
        raise Mismatch(
            f"'{file}' has format {results['format']}, and this version of inlier reads format {FORMAT}; evaluate "
            "again, or use the version that wrote it"
        )
    return results


def without_images(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results less everything that shows an image of the data: whatever is written as a picture, however deep."""
    kept: dict[str, Any] = without_pictures(results)
    return kept if "kind" in results else {**kept, "pictures": {}}


def without_pictures(value: Any) -> Any:
    """JSON values less the entries that are pictures."""
    if isinstance(value, Mapping):
        return {name: without_pictures(item) for name, item in value.items() if not is_picture(item)}
    if isinstance(value, list | tuple):
        return [without_pictures(item) for item in value if not is_picture(item)]
    return value


def is_picture(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:image")


def write_report(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Write report.html, tables/*.csv and *.tex, and the sign_off.html of a study; each file whole or not at all.

    Args:
        folder: made if it is not there. Files of these names are replaced.
        results: of results.json; nothing else is looked at.

    Returns:
        What was written, the report first.
    """
    if "kind" in results:
        document = DOCUMENTS[results["kind"]](results)
        pages, tables = {REPORT: document_html(document)}, list(document.tables)
    else:
        pages = {REPORT: evaluation_page(results), SIGN_OFF: sign_off_page(results)}
        tables = list(evaluation_tables(Findings(results)).values())
    for name, text in pages.items():
        write_bytes(folder / name, text.encode())
    return [*(folder / name for name in pages), *write_tables(folder / "tables", tables)]
