"""Hooks of MkDocs: the documents at the top of the repository and notebooks are pages, too.

README.md is the first page. Links between documents work on the site as they do in the repository;
links to other files lead to the repository on the web.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/eventdata/eventdata/blob/main"
TOP = {
    "README.md": "index.md",
    **{
        f"{name}.md": f"{name}.md" for name in ("datasets", "SECURITY", "CONTRIBUTING", "CHANGELOG")
    },
}
"""Pages by their documents at the top of the repository."""
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents at the top, and replace notebooks with their text."""
    for name, page in TOP.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            text = notebook_text(json.loads(file.content_string))
            files.append(
                File.generated(config, f"{file.src_uri.removesuffix('.ipynb')}.md", content=text)
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page."""
    here = PurePosixPath(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        return site_link(link[0], here)

    return LINK.sub(rewritten, markdown)


def site_link(target: str, page: PurePosixPath) -> str:
    """Return the place on the site of a link in a document of the repository.

    Args:
        target: link relative to the document, without a heading.
        page: the page of the document, in the folder of documents.
    """
    documents = {page: name for name, page in TOP.items()}
    document = PurePosixPath(documents.get(str(page)) or f"docs/{page}")
    place = os.path.normpath(document.parent / target)
    if not (ROOT / place).exists():
        return target
    if place in TOP or place.startswith("docs/"):
        found = TOP.get(place) or place.removeprefix("docs/")
        return os.path.relpath(re.sub(r"\.ipynb$", ".md", found), page.parent)
    return f"{REPOSITORY}/{place}"


def notebook_text(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown, with texts and images that its cells have printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![Output of the cell above](data:image/png;base64,{image})")
            elif text := "".join(output.get("text") or data.get("text/plain", "")):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)
