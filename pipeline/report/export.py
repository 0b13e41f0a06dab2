"""A page of reports/ for readers without a Markdown viewer (HTML), and its tables for a paper (LaTeX)."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8888; vertical-align: top; }
img { max-width: 100%; background: white; }
code { overflow-wrap: anywhere; }"""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row, it would begin the height of a gap
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def to_html(markdown: str, folder: Path) -> str:
    """The page as one HTML file that needs no other: PNG images, relative to the folder, become part of it."""
    parser = _parser()
    tokens = parser.parse(markdown)
    title = next((_text(tokens[index + 1]) for index, token in enumerate(tokens) if token.type == "heading_open"), "")
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                content = base64.b64encode((folder / str(child.attrs["src"])).read_bytes()).decode()
                child.attrs["src"] = f"data:image/png;base64,{content}"
    body = parser.renderer.render(tokens, parser.options, {})
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def to_latex(markdown: str) -> str:
    """The tables of the page, one tabular each, for `booktabs`. A comment names the section of each."""
    parts, section = ["% \\usepackage{booktabs}"], ""
    tokens = _parser().parse(markdown)
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            section = _text(tokens[index + 1])
        elif token.type == "table_open":
            end = next(later for later in range(index, len(tokens)) if tokens[later].type == "table_close")
            parts.append(f"% {section}\n{_tabular(tokens[index:end])}")
    return "\n\n".join(parts) + "\n"


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _tabular(tokens: Sequence[Token]) -> str:
    rows: list[list[str]] = []
    columns = ""
    for index, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(_cell(tokens[index + 1].children or ()))
        if token.type == "th_open":
            columns += "r" if "right" in str(token.attrs.get("style", "")) else "l"
    head, *body = (" & ".join(row) + r" \\" for row in rows)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _cell(children: Sequence[Token]) -> str:
    """The text of a cell; bold and code stay so."""
    marks = {"strong_open": r"\textbf{", "strong_close": "}", "em_open": r"\emph{", "em_close": "}"}
    text = ""
    for child in children:
        escaped = "".join(_LATEX.get(character, character) for character in child.content)
        text += marks.get(child.type, rf"\texttt{{{escaped}}}" if child.type == "code_inline" else escaped)
    return text
