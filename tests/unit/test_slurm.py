"""The Slurm script of the documentation, run as it stands: Slurm's commands are small scripts here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")

HEAD, OTHERS = "127.0.0.41", ("127.0.0.42",)

HOSTNAME = f"echo {HEAD}"

# Without --block it would leave processes behind that only `ray stop` ends, with all others of this machine.
RAY = f"""
case "$1 $2" in
  "start --head")
    {sys.executable} -m ray.scripts.scripts "$@" --block --num-cpus 1 --node-ip-address {HEAD} \\
      --include-dashboard false --ray-client-server-port "$SHIM_PORT" > head.log 2>&1 &
    echo $! > head.pid
    until grep -q "Ray runtime started" head.log; do
      kill -0 $! || {{ cat head.log; exit 1; }}
      sleep 0.2
    done ;;
  "start --address")
    exec {sys.executable} -m ray.scripts.scripts "$@" --num-cpus 1 --node-ip-address "$SHIM_HOST" ;;
  "stop ")
    kill $(cat head.pid); wait ;;
  *) echo "ray $*?"; exit 1 ;;
esac
"""

SRUN = f"""
test "$1 $2 $3 $4 $5 $6" = "--nodes {len(OTHERS)} --ntasks {len(OTHERS)} --exclude {HEAD}" || exit 1
shift 6
for host in {" ".join(OTHERS)}; do SHIM_HOST=$host "$@" > $host.log 2>&1 & done
wait
"""

AREAL = f'exec {sys.executable} -m areal "$@" --dry-run'


@pytest.mark.long
def test_the_script_has_a_run_on_all_of_its_hosts(tmp_path: Path):
    [script] = [block.text for block in blocks(ROOT / "docs" / "cluster.md") if block.title == "areal.sbatch"]
    with socket.create_server((HEAD, 0)) as free, socket.create_server((HEAD, 0)) as another:
        ports = [str(each.getsockname()[1]) for each in (free, another)]
    script = script.replace("6379", ports[0]).replace("MODEL", "starter")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("hostname", HOSTNAME), ("ray", RAY), ("srun", SRUN), ("areal", AREAL)):
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    (tmp_path / "areal.sbatch").write_text(script)
    path = f"{commands}:{os.environ['PATH']}"
    given = {
        "RAY_raylet_start_wait_time_s": "200",
        "PATH": path,
        "SLURM_NNODES": str(1 + len(OTHERS)),
        "SHIM_PORT": ports[1],
    }
    with (tmp_path / "out").open("w") as out:
        job = subprocess.Popen(
            ["bash", "areal.sbatch"],
            cwd=tmp_path,
            env=os.environ | given,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = job.wait(240)
    finally:
        os.killpg(job.pid, signal.SIGTERM)  # Slurm ends what a job has left
    said = "\n".join(file.read_text() for file in [tmp_path / "out", *tmp_path.glob("*.log")])
    assert code == 0, said
    for host in (HEAD, *OTHERS):
        assert host in (tmp_path / "out").read_text(), said
