"""Changes params.yaml as a careful person would: values only, with comments, order and line ends as they were."""

import io
import re
import reprlib
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.errors import UserError
from pipeline.params import PARAMS_FILE, read_mapping
from pipeline.tasks import MOST_TASKS, chain


def changed_params(**changes: object) -> str:
    """params.yaml with these values changed and the chain that fits num_tasks. Comments and line ends are kept."""
    given = read_mapping(PARAMS_FILE)  # reports a file that can't be read
    unknown = sorted(changes.keys() - given.keys())
    if unknown:
        raise UserError(f"{PARAMS_FILE} has no key {unknown[0]!r}")
    yaml = YAML()
    yaml.width = 120
    content = PARAMS_FILE.read_bytes()
    line_end = "\r\n" if 2 * content.count(b"\r\n") > content.count(b"\n") else "\n"  # the one that most lines use
    params = yaml.load(content.replace(b"\r\n", b"\n"))
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(given[key], dict):
            params[key].update({name: new for name, new in value.items() if new != given[key].get(name)})
        elif value != given[key]:
            params[key] = value
            _drop_comment_on(given[key], params.ca.items.get(key))
    num_tasks = params.get("num_tasks")
    if type(num_tasks) is not int or not 1 <= num_tasks <= MOST_TASKS:
        raise UserError(f"{PARAMS_FILE}: num_tasks: expected 1 to {MOST_TASKS}, found {reprlib.repr(num_tasks)}")
    tasks = CommentedMap()
    for name, item in chain(num_tasks).items():
        tasks[name] = CommentedMap(item)
        tasks[name].fa.set_flow_style()
    params["tasks"] = tasks
    text = io.StringIO()
    yaml.dump(params, text)
    # Keep each comment two spaces behind its value; ruamel.yaml would keep its column instead.
    written = re.sub(r"""^( *\w+: [^#'"\n]*?) +# """, r"\1  # ", text.getvalue(), flags=re.MULTILINE)
    return written.replace("\n", line_end)


def _drop_comment_on(old: object, tokens: Sequence[Any] | None) -> None:
    """Remove the comment behind a value if it describes this very value. A list of possible values stays.

    tokens: ruamel.yaml's comments of the key; the third holds the comment behind the value and the lines below it.
    """
    if not tokens or not tokens[2]:
        return
    comment, newline, below = tokens[2].value.partition("\n")
    options = re.compile(r"[^\s|:]+ *[|:]|\| *[^\s|:]+")  # NAME: what it does | NAME
    words = re.findall(r"[\w.+/-]*\w", options.sub(" ", comment))
    if any(_is_value(word, old) for word in words):
        tokens[2].value = newline + below


def _is_value(word: str, value: object) -> bool:
    """Whether a word of a comment spells the value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return word == (str(value).lower() if isinstance(value, bool) else value)
    try:
        return float(word) == value
    except ValueError:
        return False
