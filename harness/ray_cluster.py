"""A Ray cluster of several nodes on one machine: processes with resources and temporary folders of their own."""

import contextlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.root import ROOT

_PATIENT = {  # on a busy machine, too
    "RAY_worker_niceness": "0",  # by default 15: whatever else runs would come first
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
}


@contextlib.contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[Any]:
    """A head on which nothing runs; `add` gives it nodes. The environment is that of every node."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415  (an extra)

    from harness.patient_ray import be_patient  # noqa: PLC0415

    be_patient()
    before = dict(os.environ)
    os.environ.update({**environment, **_PATIENT})
    head = {"num_cpus": 0, "include_dashboard": False, "node_name": "head"}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)


def add(cluster: Any, name: str, *, folder: Path) -> Any:  # noqa: ANN401
    """A node of one core, with its own folder of temporary files."""
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    try:
        return cluster.add_node(num_cpus=1, node_name=name)
    finally:
        del os.environ["TMPDIR"]


@contextlib.contextmanager
def node_of_another_python(cluster: Any, name: str, *, folder: Path, lacks: str) -> Iterator[None]:  # noqa: ANN401
    """A node whose Python has what ours has, without one package."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/*/site-packages")
    (ours,) = Path(sys.prefix).glob("lib/*/site-packages")
    for entry in ours.iterdir():
        if not entry.name.startswith((f"{lacks}-", f"{lacks}/")) and entry.name != lacks:
            (packages / entry.name).symlink_to(entry)
    start = [str(folder / "bin/python"), "-m", "harness.patient_ray", "start", "--block", "--num-cpus=1"]
    process = subprocess.Popen(
        [*start, f"--address={cluster.address}", f"--node-name={name}"],
        cwd=ROOT,
        env=os.environ | _PATIENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while name not in {node["NodeName"] for node in cluster.global_state.node_table()}:
            assert process.poll() is None, f"{name} has not started"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()
