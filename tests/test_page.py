"""The page of `python -m pipeline serve` in a real browser: pictures chosen, dropped, refused; light and dark."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from harness.browser import CHROMIUM, DRIVER, browser
from harness.serving import serving
from pipeline.export.write import write_folder
from pipeline.prediction.learner import Learner
from pipeline.store import artifacts

OUT = Path("exported")
_MISSING = [name for name in ("starlette", "uvicorn", "python_multipart") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs a browser: apt-get install chromium chromium-driver"),
    pytest.mark.skipif(bool(_MISSING), reason="needs the extra `serve`: pip install -c constraints.txt '.[serve]'"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
COUNT = "document.querySelectorAll('article').length === {}"
DROP = """
    const files = new DataTransfer();
    for (const [name, bytes] of arguments[0]) files.items.add(new File([new Uint8Array(bytes)], name));
    const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
    document.getElementById("drop").dispatchEvent(event);
"""
CELLS = "return [...document.querySelectorAll('article')[0].querySelectorAll('td')].map(cell => cell.textContent)"
SHOTS = os.environ.get("SCREENSHOTS")  # a folder to look at


@pytest.mark.usefixtures("tiny_finished")
def test_people_see_classes_the_task_and_how_sure_it_is(tmp_path: Path) -> None:
    write_folder(OUT, "learner")
    pixels = load_file(artifacts.TEST)["images"]
    pictures = [tmp_path / f"picture {index}.png" for index in (0, 9, 27)]
    for file, image in zip(pictures, (pixels[0], pixels[9], pixels[27]), strict=True):
        Image.fromarray(image.numpy()).resize((64, 64)).save(file)
    answers = Learner.load(OUT).predict(pictures)
    shots = Path(SHOTS) if SHOTS else tmp_path
    with serving(OUT) as port, browser() as page:
        page.open(f"http://127.0.0.1:{port}/")
        assert "6 classes known" in page.wait_for("document.getElementById('limits').textContent")
        page.choose("#files", *pictures[:2])
        page.wait_for(COUNT.format(2))
        cells = page.run(CELLS)  # the newest is on top
        best = answers[1].best
        assert cells[0::3] == [name for name, _ in best]
        shown = [float(cell.removesuffix(" %")) for cell in cells[2::3]]
        assert shown == pytest.approx([100 * share for _, share in best], abs=0.51)
        text = page.run("return document.querySelectorAll('article')[0].textContent")
        assert f"Selected task: {answers[1].task}. " in text
        assert f"{100 * answers[1].margin:.0f} percentage point" in text
        assert page.run("return document.querySelectorAll('article img')[0].complete")

        dropped = [[file.name, list(file.read_bytes())] for file in pictures[2:]] + [["notes.txt", [104, 105]]]
        page.run(DROP, dropped)
        page.wait_for(COUNT.format(4))
        texts = page.run("return [...document.querySelectorAll('article')].map(one => one.textContent)")
        assert "notes.txtThis file is not an image that Pillow can read" in texts[0]
        assert answers[2].label in texts[1]

        page.run(DROP, [["large.png", [0] * 100_001]])
        assert "more than" in page.wait_for("(text => text.startsWith('Refused') && text)(status.textContent)")
        page.run(DROP, [[f"{number}.png", [1]] for number in range(5)])
        assert page.wait_for("(text => text.includes('4 pictures') && text)(status.textContent)")
        grounds = []
        for scheme in ("light", "dark"):
            page.set_scheme(scheme)
            grounds.append(page.run("return getComputedStyle(document.body).backgroundColor"))
            page.screenshot(shots / f"{scheme}.png")
        assert json.dumps(grounds) == '["rgb(255, 255, 255)", "rgb(18, 18, 18)"]'
        complaints = [line for line in page.log() if "status of 4" not in line and "favicon" not in line]
        assert complaints == []
