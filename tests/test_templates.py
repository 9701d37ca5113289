"""The templates for clusters: their form, their command lines, and the signal's way through the Slurm script.

The facts of the forms are from: sbatch(1), srun(1) and scancel(1); trainjob_types.go of Kubeflow Trainer 2.3;
the YAML reference and the page on buckets of SkyPilot.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from torch.distributed.run import get_args_parser

import residual
from residual.cli.main import app
from residual.models.names import parse_name

yaml = pytest.importorskip("yaml")

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
SLURM = TEMPLATES / "slurm.sbatch"
VARIABLES = {"SLURM_NNODES": 2, "PROCESSES": 8, "SLURM_JOB_ID": 7, "FIRST": "a", "PORT": 29500}
VARIABLES |= {"NETWORK": "resnet50", "DATA": "/images", "RUN": "/runs/one", "SLURM_NODEID": 0}
VARIABLES |= {"PET_MASTER_ADDR": "a", "PET_MASTER_PORT": 29500, "PET_NODE_RANK": 0}
VARIABLES |= {"SKYPILOT_NUM_NODES": 2, "SKYPILOT_NUM_GPUS_PER_NODE": 8, "SKYPILOT_TASK_ID": "sky-1"}
VARIABLES |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": 0}


def trainjob():
    return yaml.safe_load((TEMPLATES / "trainjob.yaml").read_text())


def skypilot():
    return yaml.safe_load((TEMPLATES / "skypilot.yaml").read_text())


def scripts() -> dict[str, str]:
    """The shell script of each template."""
    (args,) = trainjob()["spec"]["trainer"]["args"]
    return {"slurm": SLURM.read_text(), "trainjob": args, "skypilot": skypilot()["run"]}


def command(name: str) -> list[str]:
    """The words of a template's torchrun command, after the shell has put the values of the variables in."""
    text = scripts()[name].replace("\\\n", " ")
    (line,) = re.findall(r"^\s*(?:exec )?(torchrun .*?)&?$", text, re.MULTILINE)
    environment = {name: str(value) for name, value in VARIABLES.items()} | {"PATH": os.environ["PATH"]}
    shell = ["bash", "-uc", f"printf '%s\\0' {line}"]
    found = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
    return found.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", ["slurm", "trainjob", "skypilot"])
def test_the_scripts_are_bash(name):
    checked = subprocess.run(
        ["bash", "-n"], input=scripts()[name], text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", ["slurm", "trainjob", "skypilot"])
def test_torchrun_takes_its_part_of_the_command_line(name, monkeypatch):
    monkeypatch.setenv("PET_NNODES", "2")  # as the runtime torch-distributed sets them
    monkeypatch.setenv("PET_NPROC_PER_NODE", "8")
    _, *words = command(name)
    found = get_args_parser().parse_args(words)
    assert (found.nnodes, found.nproc_per_node) == ("2", "8")
    assert (found.rdzv_backend, found.rdzv_conf) == ("c10d", "is_host=1")
    assert found.rdzv_endpoint == {"skypilot": "10.0.0.1:29500"}.get(name, "a:29500")
    assert found.rdzv_id != "none"
    assert (found.max_restarts > 0) == (name != "skypilot")
    assert (found.module, found.training_script) == (True, "residual")


@pytest.mark.parametrize("name", ["slurm", "trainjob", "skypilot"])
def test_residual_takes_the_rest(name):
    words = command(name)
    rest = words[words.index("residual") + 1 :]
    train = typer.main.get_command(app).get_command(None, rest[0])
    context = train.make_context("train", rest[1:])  # refuses an option that is not there
    given = {key: value for key, value in context.params.items() if value}
    assert given["auto_resume"] is True
    assert given["output"].parts[-2] == "runs"
    assert given["data"]
    parse_name(given["model"])


def test_each_sets_the_threads_and_the_time_to_save():
    for name, text in {**scripts(), "trainjob": (TEMPLATES / "trainjob.yaml").read_text()}.items():
        assert "OMP_NUM_THREADS" in text, name
        assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in text, name  # see runtime/ranks.py
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90" in scripts()["slurm"]  # of 120 seconds
    environment = {entry["name"]: entry["value"] for entry in trainjob()["spec"]["trainer"]["env"]}
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < 30  # terminationGracePeriodSeconds by default


def test_the_options_of_sbatch():
    lines = SLURM.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = {}
    for number, line in enumerate(lines):
        if line.startswith("#SBATCH "):
            assert number < first, "sbatch stops looking for options at the first command"
            (word,) = shlex.split(line, comments=True) or line.split()[1:]
            key, _, value = word.removeprefix("--").partition("=")
            options[key] = value
    whole = ("nodes", "gpus-per-node", "cpus-per-task", "ntasks-per-node")
    assert all(int(options[key]) >= 1 for key in whole)
    assert options["ntasks-per-node"] == "1", "one torchrun on a machine starts all its processes"
    assert re.fullmatch(r"\d+:\d\d:\d\d", options["time"])
    assert options["signal"] == "B:TERM@120"
    assert (options["requeue"], options["open-mode"]) == ("", "append")


def has(value, kinds) -> None:
    """Check that a value has keys with values of these kinds, and no others."""
    if isinstance(kinds, dict):
        assert isinstance(value, dict)
        assert value.keys() == kinds.keys()
        for key, kind in kinds.items():
            has(value[key], kind)
    elif isinstance(kinds, list):
        assert isinstance(value, list)
        assert len(value) == len(kinds)
        for one, kind in zip(value, kinds, strict=True):
            has(one, kind)
    else:
        assert type(value) is kinds, (value, kinds)


def test_the_form_of_the_trainjob():
    resources = {"memory": str, "nvidia.com/gpu": int}
    variable = {"name": str, "value": str}  # a number would be refused
    trainer = {"image": str, "numNodes": int, "numProcPerNode": int, "command": [str, str], "args": [str]}
    trainer |= {"resourcesPerNode": {"requests": {"cpu": int, **resources}, "limits": resources}}
    trainer |= {"env": [variable] * 3}
    volumes = [
        {"name": str, "persistentVolumeClaim": {"claimName": str}},
        {"name": str, "emptyDir": {"medium": str, "sizeLimit": str}},
    ]
    mount = {"name": str, "mountPath": str}
    pod = {"securityContext": {"fsGroup": int}, "volumes": volumes}
    pod |= {"containers": [{"name": str, "volumeMounts": [mount, mount]}]}
    job = {"name": str, "template": {"spec": {"template": {"spec": pod}}}}
    patch = {"manager": str, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
    spec = {"runtimeRef": {"name": str}, "trainer": trainer, "runtimePatches": [patch]}
    found = trainjob()
    has(found, {"apiVersion": str, "kind": str, "metadata": {"name": str}, "spec": spec})
    assert (found["apiVersion"], found["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", found["metadata"]["name"])
    assert found["spec"]["runtimeRef"]["name"] == "torch-distributed"


def test_the_parts_of_the_trainjob_agree():
    spec = trainjob()["spec"]
    trainer = spec["trainer"]
    for kind in ("requests", "limits"):
        assert trainer["resourcesPerNode"][kind]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    (job,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["name"], container["name"]) == ("node", "node"), "as the runtime torch-distributed names them"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
    assert mounted["shm"] == "/dev/shm"
    for option in ("--data", "--output"):
        words = command("trainjob")
        assert words[words.index(option) + 1].startswith(mounted["shared"] + "/")


def test_the_image_is_the_one_of_the_dockerfile():
    dockerfile = (TEMPLATES.parent / "Dockerfile").read_text()
    image = trainjob()["spec"]["trainer"]["image"].rpartition("/")[2]
    assert image == f"residual:{residual.__version__}"
    assert image in dockerfile
    (job,) = trainjob()["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"][
        "replicatedJobs"
    ]
    user = re.search(r"^USER (\d+)$", dockerfile, re.MULTILINE)
    assert str(job["template"]["spec"]["template"]["spec"]["securityContext"]["fsGroup"]) == user[1]


def test_the_form_of_the_skypilot_job():
    recovery = {"strategy": str, "max_restarts_on_errors": int}
    resources = {"accelerators": str, "any_of": [{"use_spot": bool}] * 2, "job_recovery": recovery}
    mounts = {"/imagenet": {"source": str, "mode": str}, "/runs": {"name": str, "mode": str}}
    form = {"name": str, "num_nodes": int, "resources": resources, "envs": {"NETWORK": str}}
    form |= {"workdir": str, "file_mounts": mounts, "setup": str, "run": str}
    found = skypilot()
    has(found, form)
    assert re.fullmatch(r"\w+:\d+", found["resources"]["accelerators"])
    assert found["resources"]["job_recovery"]["strategy"] in ("FAILOVER", "EAGER_NEXT_REGION")
    assert found["file_mounts"]["/imagenet"]["mode"] == "MOUNT"
    assert found["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED", "MOUNT can append to no file"
    words = command("skypilot")
    assert words[words.index("--data") + 1] == "/imagenet"
    assert words[words.index("--output") + 1].startswith("/runs/")


STUBS = {
    # what srun does: the task on each machine; at SIGTERM it kills them
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        for node in 0 1; do SLURM_NODEID=$node "$@" & echo $! >> "$LOG/tasks"; done
        trap 'echo killed >> "$LOG/calls"; kill -KILL $(cat "$LOG/tasks"); exit 137' TERM
        worst=0
        for task in $(cat "$LOG/tasks"); do wait "$task"; code=$?; (( code > worst )) && worst=$code; done
        exit "$worst" """,
    "scancel": """
        echo "scancel $*" >> "$LOG/calls"
        kill -TERM $(cat "$LOG/tasks")""",
    "scontrol": """
        case "$*" in
            "show hostnames "*) printf 'first\\nsecond\\n' ;;
            *"show job"*) echo "JobId=7 JobName=resnet50 JobState=$STATE Reason=None" ;;
            *) echo "scontrol $*" >> "$LOG/calls" ;;
        esac""",
    # what torchrun does: its processes save at the first SIGTERM, at a second it does not wait; exit code 1
    "torchrun": """
        echo "torchrun $SLURM_NODEID $OMP_NUM_THREADS $*" >> "$LOG/starts"
        again='echo twice >> "$LOG/calls"; exit 1'
        trap 'trap "$again" TERM; sleep 0.2; echo saved >> "$LOG/calls"; exit 1' TERM
        [ "$ENDS" != at-the-signal ] || touch "$LOG/training$SLURM_NODEID"
        while [ "$ENDS" = at-the-signal ]; do sleep 0.02; done
        exit "$ENDS" """,
}


@pytest.fixture
def slurm(tmp_path):
    """Start the script as Slurm does, with stand-ins for Slurm's commands and torchrun."""
    bin_folder = tmp_path / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name, body in STUBS.items():
        path = bin_folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (bin_folder / "activate").write_text(f'export PATH="{bin_folder}:$PATH"\n')
    script = tmp_path / "slurm.sbatch"
    script.write_text(SLURM.read_text().replace("/shared/", f"{tmp_path}/"))
    started = []

    def start(ends, state="RUNNING"):
        given = {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NAME": "resnet50",
            "SLURM_NNODES": "2",
            "SLURM_CPUS_PER_TASK": "64",
        }
        given |= {"SLURM_JOB_NODELIST": "[first,second]", "SLURM_GPUS_ON_NODE": "8"}
        given |= {"LOG": str(tmp_path), "ENDS": ends, "STATE": state, "PATH": os.environ["PATH"]}
        started.append(subprocess.Popen(["bash", str(script)], env=given))
        if ends == "at-the-signal":
            deadline = time.monotonic() + 60
            while not all((tmp_path / f"training{node}").exists() for node in (0, 1)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        return started[0]

    yield start, tmp_path
    for process in started:
        process.kill()
        process.wait()


def calls(folder):
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_each_machine_starts_torchrun_with_its_own_number(slurm):
    start, folder = slurm
    assert start("0").wait(60) == 0
    starts = sorted((folder / "starts").read_text().splitlines())
    assert [line.split()[:3] for line in starts] == [["torchrun", "0", "8"], ["torchrun", "1", "8"]]
    assert "--rdzv-endpoint=first:20007 --rdzv-conf=is_host=1 " in starts[0]
    assert "--rdzv-conf=is_host=0 " in starts[1]
    assert calls(folder) == [], "a run that is finished is not requeued"


def test_a_failure_is_not_requeued_and_is_told(slurm):
    start, folder = slurm
    assert start("1").wait(60) == 1
    assert calls(folder) == []


def test_out_of_time_all_machines_save_then_the_job_is_requeued_once(slurm):
    start, folder = slurm
    job = start("at-the-signal")
    job.terminate()
    assert job.wait(60) == 143
    assert calls(folder) == ["scancel --signal=TERM 7.0", "saved", "saved", "scontrol requeue 7"]


def test_a_preemption_that_signals_the_script_and_the_tasks_counts_once(slurm):
    start, folder = slurm
    job = start("at-the-signal")
    for task in (folder / "tasks").read_text().split():
        os.kill(int(task), 15)
    job.terminate()
    assert job.wait(60) == 143
    assert sorted(calls(folder)) == ["saved", "saved", "scancel --signal=TERM 7.0", "scontrol requeue 7"]


def test_a_preemption_that_signals_the_tasks_alone_is_requeued_too(slurm):
    start, folder = slurm
    job = start("at-the-signal")
    for task in (folder / "tasks").read_text().split():
        os.kill(int(task), 15)
    assert job.wait(60) == 143
    assert calls(folder) == ["saved", "saved", "scontrol requeue 7"]


@pytest.mark.parametrize("state", ["CANCELLED", "PENDING"])
def test_a_job_that_is_cancelled_or_requeued_already_is_left_so(slurm, state):
    start, folder = slurm
    job = start("at-the-signal", state)
    job.terminate()
    assert job.wait(60) == 143
    assert calls(folder) == ["scancel --signal=TERM 7.0", "saved", "saved"]


SAVES = """
import signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])

def save(*_):
    time.sleep(0.3)
    (folder / "saved").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
(folder / "training").touch()
time.sleep(60)
"""


@pytest.mark.slow
def test_the_real_torchrun_waits_for_its_processes_and_exits_with_1(tmp_path):
    """What the script builds on: if this changes, its comment and its exit code 143 are out of date."""
    (tmp_path / "saves.py").write_text(SAVES)
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    process = subprocess.Popen([*run, str(tmp_path / "saves.py"), str(tmp_path)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "training").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    process.communicate(timeout=60)
    assert (process.returncode, (tmp_path / "saved").exists()) == (1, True)
