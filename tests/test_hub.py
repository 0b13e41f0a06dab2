"""`hf upload OWNER/NAME FOLDER` sends an exported folder as it is, and what arrives is the learner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from harness.hub import hub
from pipeline.export.write import write_folder
from pipeline.prediction.learner import Learner
from pipeline.store import artifacts

OUT = Path("exported")


@pytest.mark.usefixtures("tiny_finished")
def test_the_folder_goes_to_the_hub_as_it_is() -> None:
    write_folder(OUT, "learner")
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with hub() as there:
        environment |= {"HF_ENDPOINT": there.url, "HF_TOKEN": "hf_token", "HF_HUB_DISABLE_XET": "1", "HF_HOME": "home"}
        command = [str(Path(sys.executable).with_name("hf")), "upload", "team/animals", str(OUT)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert there.repositories == ["team/animals"]
        files = there.files
        assert {name for name in files if name.endswith(".safetensors")} == {
            file.name for file in OUT.glob("*.safetensors")
        }
    assert files == {file.name: file.read_bytes() for file in OUT.iterdir()}
    Path("fetched").mkdir()
    for name, content in files.items():
        Path("fetched", name).write_bytes(content)
    Image.fromarray(load_file(artifacts.TEST)["images"][0].numpy()).save("a.png")
    assert Learner.load("fetched").predict(["a.png"]) == Learner.load(OUT).predict(["a.png"])
    assert files["README.md"].startswith(b"---\npipeline_tag: image-classification\n")
