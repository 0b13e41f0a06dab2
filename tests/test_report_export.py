"""The report as one HTML file, and its tables in LaTeX."""

import base64
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.report.export import to_html, to_latex
from pipeline.report.text import escape, table

PAGE = rf"""# Report on a & b\_c

{table(("method", "accuracy (%)"), [("**C-LN**", "67.6 ± 4.7"), (escape("[50% <b>_x_ #1"), "`lr_1`")])}

## Figures

![A figure](figures/a.png)

Text after it.
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(b"png")
    (tmp_path / "report.md").write_text(PAGE, encoding="utf-8")
    return tmp_path / "report.md"


def test_html_has_the_content_and_needs_no_other_file(page: Path) -> None:
    shown = to_html(PAGE, page.parent)
    assert "<title>Report on a &amp; b_c</title>" in shown
    assert f'src="data:image/png;base64,{base64.b64encode(b"png").decode()}"' in shown
    assert "[50% &lt;b&gt;_x_ #1</td>" in shown, "as the class is called, and no tag"
    assert "<strong>C-LN</strong>" in shown
    assert "Text after it." in shown


def test_latex_has_each_table_with_its_characters_escaped() -> None:
    assert (
        to_latex(PAGE)
        == r"""% \usepackage{booktabs}

% Report on a & b_c
\begin{tabular}{lr}
\toprule
method & accuracy (\%) \\
\midrule
\textbf{C-LN} & 67.6 $\pm$ 4.7 \\
{[}50\% \textless{}b\textgreater{}\_x\_ \#1 & \texttt{lr\_1} \\
\bottomrule
\end{tabular}
"""
    )


def test_the_command_writes_what_is_asked_for(page: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(page), "--html", "--latex"])
    assert done.exit_code == 0
    assert page.with_suffix(".html").read_text(encoding="utf-8") == to_html(PAGE, page.parent)
    assert page.with_suffix(".tex").read_text(encoding="utf-8") == to_latex(PAGE)


@pytest.mark.parametrize(
    ("lost", "options", "said"),
    [
        ("", [], "choose what to write"),
        ("report.md", ["--latex"], "report.md cannot be read: No such file"),
        ("figures/a.png", ["--html"], "a.png cannot be read: No such file"),
    ],
)
def test_a_mistake_is_one_line(page: Path, lost: str, options: list[str], said: str) -> None:
    if lost:
        (page.parent / lost).unlink()
    done = CliRunner().invoke(app, ["report", str(page), *options])
    assert done.exit_code == 1
    assert said in str(done.exception)
    assert not list(page.parent.glob("*.html")) + list(page.parent.glob("*.tex"))
