"""Jobs for clusters: what is sent, to programs in the schedulers' place, and to a Ray."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from click.testing import CliRunner, Result
from rayjob_schema import RAY_JOB

from stillroom.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

SWEEP = """
run = "run.toml"
path = "students"
seeds = [0, 1]
[variants]
"labels only" = { "terms.0.weight" = 2.0 }
"it's both" = {}
"""
# Writes its arguments, one a line, and answers what `python -c` is asked here with success.
WRITES_ARGUMENTS = '#!/bin/bash\n[ "$1" = -c ] && exit 0\nprintf "%s\\n" "$@"\n'


def submit(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["submit", *map(str, arguments)])


def printed(*arguments: object) -> str:
    done = submit(*arguments, "--print")
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, first on the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def put_program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def sweep_file(run_file: Path, seeds: tuple[int, ...] = (0, 1)) -> Path:
    path = run_file.with_name("sweep.toml")
    path.write_text(SWEEP.replace("run.toml", run_file.name).replace("[0, 1]", f"{list(seeds)}"))
    return path


SBATCH = {  # long options of sbatch's that scripts here use, and what each takes
    "job-name": r"[a-z0-9-]+", "chdir": r"/.+", "output": r"[^ ]+", "nodes": r"[1-9]\d*",
    "ntasks-per-node": r"[1-9]\d*", "cpus-per-task": r"[1-9]\d*", "gpus-per-node": r"[1-9]\d*",
    "mem": r"\d+[KMGT]?", "array": r"\d+(-\d+)?(%[1-9]\d*)?", "signal": r"(B:)?[A-Z0-9]+@\d+",
    "requeue": "", "partition": r"\w+", "exclusive": "",
}  # fmt: skip


def options(script: str) -> dict[str, str]:
    """What sbatch reads of a script that bash can run: its lines before the first command."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
    assert script.startswith("#!/bin/bash\n")
    found: dict[str, str] = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            assert word.startswith("--")
            name, _, value = word[2:].partition("=")
            assert re.fullmatch(SBATCH[name], value), word
            assert name not in found
            found[name] = value
        elif line and not line.startswith("#"):
            return found
    return found


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash"], input=script, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_a_slurm_script_runs_the_command_in_its_folder(run_file: Path, programs: Path) -> None:
    python = put_program(programs, "some python", WRITES_ARGUMENTS)
    script = printed(
        "train", run_file, "--to", "slurm", "--set", "train.seed=7", "--gpus", 2, "--memory", 32,
        "--sbatch", "partition=gpu", "--sbatch", "exclusive", "--python", python,
        "--folder", "/shared/my work",
    )  # fmt: skip
    assert options(script) == {
        "job-name": f"stillroom-train-{run_file.stem}",
        "chdir": "/shared/my work",
        "output": "slurm/%x-%j.out",
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "4",
        "gpus-per-node": "2",
        "mem": "32G",
        "signal": "B:INT@120",
        "requeue": "",
        "partition": "gpu",
        "exclusive": "",
    }
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    expected = [
        "-m",
        "stillroom",
        "train",
        str(run_file),
        "--set",
        "train.seed=7",
        "--workers",
        "2",
    ]
    assert done.stdout.splitlines() == expected


def test_the_tasks_of_an_array_are_the_students_of_a_sweep(run_file: Path, programs: Path) -> None:
    python = put_program(programs, "python", WRITES_ARGUMENTS)
    file = sweep_file(run_file)
    text = printed("sweep", file, "--to", "slurm", "--at-once", 3, "--python", python)
    teachers, students, table = (f"#!/bin/bash{part}" for part in text.split("#!/bin/bash")[1:])
    assert options(students)["array"] == "0-3%3"
    trained = []
    for number in range(4):
        done = run_script(students, SLURM_ARRAY_TASK_ID=str(number))
        assert done.returncode == 0, done.stderr
        trained.append(tuple(done.stdout.splitlines()[4:]))
    assert trained == [
        ("--only", variant, "--seeds", seed)
        for seed in ("0", "1")
        for variant in ("labels only", "it's both")
    ]
    assert run_script(students, SLURM_ARRAY_TASK_ID="4").returncode == 2
    assert run_script(teachers).stdout.splitlines()[-1] == "--teachers-only"
    assert run_script(table).stdout.splitlines() == ["-m", "stillroom", "sweep", str(file)]


def test_a_sweeps_jobs_wait_for_each_other(run_file: Path, programs: Path, tmp_path: Path) -> None:
    put_program(
        programs, "sbatch",
        f'#!/bin/bash\necho "$@" >> {tmp_path}/asked; cat > /dev/null\n'
        f'echo "$((100 + $(wc -l < {tmp_path}/asked)));cluster"\n',
    )  # fmt: skip
    done = submit("sweep", sweep_file(run_file), "--to", "slurm")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "asked").read_text().splitlines() == [
        "--parsable",
        "--parsable --dependency=afterok:101",
        "--parsable --dependency=afterany:102",
    ]
    assert "submitted 101, 102, 103" in done.stdout


@pytest.mark.parametrize("command", ["cache", "train", "sweep"])
def test_slurm_gets_what_is_printed(
    command: str, run_file: Path, programs: Path, tmp_path: Path
) -> None:
    put_program(programs, "sbatch", f"#!/bin/bash\ncat >> {tmp_path}/got; echo 7\n")
    asked = (command, sweep_file(run_file) if command == "sweep" else run_file, "--to", "slurm")
    shown = printed(*asked)
    assert submit(*asked).exit_code == 0
    kept = [line for line in shown.splitlines() if line and not line.startswith("# handed in")]
    assert [line for line in (tmp_path / "got").read_text().splitlines() if line] == kept


def test_a_refusal_names_the_jobs_that_were_taken(
    run_file: Path, programs: Path, tmp_path: Path
) -> None:
    put_program(
        programs, "sbatch",
        f'#!/bin/bash\ncat > /dev/null\n[ -e {tmp_path}/one ] && {{ echo "no such partition" >&2; '
        f"exit 1; }}\ntouch {tmp_path}/one; echo 55\n",
    )  # fmt: skip
    done = submit("sweep", sweep_file(run_file), "--to", "slurm")
    assert done.exit_code == 2
    assert "no such partition" in done.stderr
    assert "jobs 55 were taken" in done.stderr


def test_a_folder_for_logs_that_cannot_be_made_is_said(
    run_file: Path, programs: Path, tmp_path: Path
) -> None:
    put_program(programs, "sbatch", "#!/bin/bash\necho 1\n")
    (tmp_path / "slurm").write_text("a file")
    done = submit("train", run_file, "--to", "slurm")
    assert done.exit_code == 2
    assert "cannot be made (File exists)" in done.stderr


def test_a_folder_that_does_not_hold_the_file_is_said(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    asked = ("train", run_file.name, "--to", "slurm", "--print", "--folder")
    done = submit(*asked, tmp_path / "elsewhere")
    assert done.exit_code == 2
    assert f"it holds no {run_file.name}" in done.stderr
    assert submit(*asked, tmp_path).exit_code == 0


def test_a_build_over_nodes_starts_one_ray(run_file: Path, programs: Path) -> None:
    python = put_program(programs, "python", WRITES_ARGUMENTS)
    put_program(programs, "scontrol", "#!/bin/bash\nprintf 'node1\\nnode2\\nnode3\\n'\n")
    put_program(programs, "srun", '#!/bin/bash\necho "srun: $*" >&2\n')
    script = printed("cache", run_file, "--to", "slurm", "--nodes", 3, "--python", python)
    assert options(script)["nodes"] == "3"
    done = run_script(
        script, SLURM_JOB_ID="20007", SLURM_JOB_NODELIST="node[1-3]", SLURM_JOB_NUM_NODES="3"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "-m", "stillroom", "cache", "build", str(run_file), "--address", "node1:20007",
    ]  # fmt: skip
    head, workers = sorted(done.stderr.splitlines(), key=lambda line: "--head" not in line)
    assert "--nodelist=node1 " in head
    assert "--port=20007 " in head
    assert "--nodes=2 --exclude=node1 " in workers
    assert "--address=node1:20007 " in workers


@pytest.mark.parametrize(("gpus", "workers"), [(0, "2"), (1, "2")])
def test_a_student_over_nodes_has_a_worker_for_each_gpu_or_node(
    gpus: int, workers: str, run_file: Path, programs: Path
) -> None:
    python = put_program(programs, "python", WRITES_ARGUMENTS)
    put_program(programs, "scontrol", "#!/bin/bash\nprintf 'node1\\nnode2\\n'\n")
    put_program(programs, "srun", "#!/bin/bash\n")
    script = printed(
        "train", run_file, "--to", "slurm", "--nodes", 2, "--gpus", gpus, "--python", python
    )
    done = run_script(
        script, SLURM_JOB_ID="20007", SLURM_JOB_NODELIST="node[1-2]", SLURM_JOB_NUM_NODES="2"
    )
    assert done.stdout.splitlines() == [
        "-m", "stillroom", "train", str(run_file), "--workers", workers, "--address", "node1:20007",
    ]  # fmt: skip


def test_a_student_on_several_gpus_of_a_ray_leaves_them_to_its_workers(run_file: Path) -> None:
    sent = json.loads(printed("train", run_file, "--to", "ray", "--gpus", 2))
    command = f"python -m stillroom train {run_file} --workers 2 --address auto"
    assert sent["entrypoint"] == f"env -C {Path.cwd()} {command}"
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_num_gpus"]) == (1, 0)
    claim = f"w={Path.cwd()}"
    text = printed(
        "train", run_file, "--to", "kubernetes", "--image", "i", "--claim", claim, "--gpus", 2
    )
    job = yaml.safe_load(text)
    jsonschema.validate(job, RAY_JOB)
    assert job["spec"]["entrypoint"].endswith("--workers 2 --address auto")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_a_ray_job_is_what_is_printed(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_KEY", "do not print me")
    text = printed(
        "train", run_file, "--to", "ray", "--secret", "STORE_KEY", "--pip", "timm", "--cpus", 8
    )
    assert "do not print me" not in text
    assert json.loads(text) == {
        "entrypoint": f"env -C {Path.cwd()} python -m stillroom train {run_file}",
        "entrypoint_num_cpus": 8,
        "entrypoint_num_gpus": 1,
        "runtime_env": {"pip": ["timm"], "env_vars": {"STORE_KEY": "(secret)"}},
        "metadata": {"name": f"stillroom-train-{run_file.stem}"},
    }


def test_ray_gets_what_is_printed(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    class Client:
        def __init__(self, address: str) -> None:
            self.address = address

        def submit_job(self, **job: Any) -> str:
            sent.append((self.address, job))
            return "raysubmit_1"

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    monkeypatch.setenv("STORE_KEY", "hidden")
    asked = ("train", run_file, "--to", "ray", "--secret", "STORE_KEY")
    done = submit(*asked, "--address", "http://head:8265")
    assert "submitted raysubmit_1" in done.stdout
    ((address, job),) = sent
    assert address == "http://head:8265"
    assert job["runtime_env"]["env_vars"] == {"STORE_KEY": "hidden"}
    job["runtime_env"]["env_vars"] = {"STORE_KEY": "(secret)"}
    assert json.loads(printed(*asked)) == job


def test_an_uploaded_job_writes_nothing_below_its_folder(run_file: Path, tmp_path: Path) -> None:
    done = submit("cache", run_file, "--to", "ray", "--upload", "--print")
    assert done.exit_code == 2
    assert "cache.path = 'street.cache'" in done.stderr
    sent = json.loads(
        printed("cache", run_file, "--to", "ray", "--upload", "--set", f"cache.path={tmp_path}/c")
    )
    assert sent["runtime_env"]["working_dir"] == str(Path.cwd())
    assert sent["entrypoint"].startswith("python -m stillroom cache build ")
    assert sent["entrypoint"].endswith(" --runner ray")
    assert sent["entrypoint_num_gpus"] == 0  # its actors ask for them


def test_a_ray_job_of_kubernetes(run_file: Path) -> None:
    text = printed(
        "cache", run_file, "--to", "kubernetes", "--image", "registry/stillroom:1", "--nodes", 2,
        "--claim", "work=/shared", "--claim", "data=/data", "--secret", "s3-keys", "--gpus", 4,
        "--memory", 64, "--folder", "/shared/mine", "--namespace", "vision",
    )  # fmt: skip
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"] == {"name": f"stillroom-cache-{run_file.stem}", "namespace": "vision"}
    assert job["spec"]["entrypoint"] == (
        f"env -C /shared/mine python -m stillroom cache build {run_file} --runner ray"
    )
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 2
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["resources"]["limits"] == {"cpu": "4", "memory": "64Gi", "nvidia.com/gpu": "4"}
    assert worker["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert worker["volumeMounts"] == [
        {"name": "work", "mountPath": "/shared"}, {"name": "data", "mountPath": "/data"},
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["cache", "train", "sweep"])
def test_a_ray_job_of_kubernetes_is_one_by_its_published_schema(
    command: str, run_file: Path
) -> None:
    job = yaml.safe_load(printed(
        command, sweep_file(run_file) if command == "sweep" else run_file, "--to", "kubernetes",
        "--image", "i", "--claim", f"w={Path.cwd()}", "--secret", "s3-keys", "--memory", 64,
        "--namespace", "vision",
    ))  # fmt: skip
    jsonschema.validate(job, RAY_JOB)
    wrong = [
        ("spec", "ttlSecondsAfterFinished", "3600"),
        ("spec", "replicas", 2),
        ("metadata", "name", "Upper"),
    ]
    for section, key, value in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**job, section: {**job[section], key: value}}, RAY_JOB)


def test_kubectl_gets_the_manifest(run_file: Path, programs: Path, tmp_path: Path) -> None:
    put_program(programs, "kubectl", f"#!/bin/bash\ncat > {tmp_path}/got; echo created\n")
    asked = (
        "train", run_file, "--to", "kubernetes", "--image", "i", "--claim", f"w={Path.cwd()}",
    )  # fmt: skip
    done = submit(*asked)
    assert done.stdout == "created\n"
    job = yaml.safe_load((tmp_path / "got").read_text())
    assert job == yaml.safe_load(printed(*asked))
    cluster = job["spec"]["rayClusterSpec"]
    assert "workerGroupSpecs" not in cluster  # a student trains on one machine
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--to", "slurm", "--image", "i"], "--image is for kubernetes, not for slurm"),
        (["train", "--to", "slurm", "--secret", "K"], "--secret is for ray and kubernetes"),
        (
            ["train", "--to", "slurm", "--nodes", "4"],
            "train.streams.street: a batch of 3, and --gpus and --nodes make 4 processes",
        ),
        (["cache", "--to", "ray", "--nodes", "2"], "--nodes is for slurm and kubernetes"),
        (["train", "--to", "slurm", "--sbatch", "--partition=x"], "without its dashes"),
        (["train", "--to", "slurm", "--sbatch", "chdir=/x"], "chdir is set here"),
        (["train", "--to", "ray"], "--to ray needs --address"),
        (["train", "--to", "ray", "--secret", "NOT_SET_ANYWHERE"], "no such variable"),
        (["train", "--to", "kubernetes"], "needs --image"),
        (["train", "--to", "kubernetes", "--image", "i"], "not below what is mounted"),
        (["train", "--to", "slurm", "--set", "train.step=3"], "train.step"),
        (["train", "--to", "slurm"], "sbatch: not found"),
    ],
)
def test_what_cannot_be_submitted(
    run_file: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    command, *more = arguments
    done = submit(command, run_file, *more)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_sweep_spreads_over_a_ray_cluster_and_not_over_nodes_of_slurm(run_file: Path) -> None:
    file = sweep_file(run_file)
    sent = json.loads(printed("sweep", file, "--to", "ray", "--gpus", 8))
    assert sent["entrypoint"].endswith(f"-m stillroom sweep {file} --address auto")
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_num_gpus"]) == (1, 0)
    claim = f"w={Path.cwd()}"
    job = yaml.safe_load(
        printed("sweep", file, "--to", "kubernetes", "--image", "i", "--claim", claim, "--nodes", 3)
    )
    assert job["spec"]["entrypoint"].endswith(f"sweep {file} --address auto")
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == 3
    refused = submit("sweep", file, "--to", "slurm", "--nodes", 3, "--print")
    assert refused.exit_code == 2
    assert "the students of a sweep are jobs of their own on Slurm" in refused.stderr


@pytest.mark.parametrize("by", ["asha = {}", "samples = 9\ncontroller = {}"])
def test_a_sweep_that_compares_its_students_is_no_array_of_slurm(run_file: Path, by: str) -> None:
    file = sweep_file(run_file)
    text = file.read_text()
    if "controller" in by:
        search = 'search = { "terms.0.weight" = [1.0, 2.0, "drawn"] }\n'
        text = text[: text.index("[variants]")] + search
    validation = 'set = { "train.validation" = { source = "street", every = 2 } }'
    file.write_text(f"{by}\n{validation}\n{text}")
    refused = submit("sweep", file, "--to", "slurm", "--print")
    assert refused.exit_code == 2
    assert "asha compares students while they train, and a controller draws by" in refused.stderr
    assert submit("sweep", file, "--to", "ray", "--print").exit_code == 0


def test_an_address_without_a_dashboard(run_file: Path) -> None:
    done = submit("train", run_file, "--to", "ray", "--address", "http://127.0.0.1:9")
    assert done.exit_code == 2
    assert "no Ray dashboard at 'http://127.0.0.1:9'" in done.stderr


SERVE = """
import socket, sys
from ray.cluster_utils import Cluster
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
page, agent = (one.getsockname()[1] for one in sockets)  # the usual ports may be another Ray's
for one in sockets:
    one.close()
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 3, "include_dashboard": True, "dashboard_host": "127.0.0.1",
    "dashboard_port": page, "dashboard_agent_listen_port": agent})
print("http://" + cluster.webui_url, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of the dashboard of a Ray of this machine, in a process of its own."""
    served = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},  # it listens on the loopback alone
    )  # fmt: skip
    assert served.stdin is not None
    assert served.stdout is not None
    try:
        for line in served.stdout:
            if line.startswith("http://"):
                yield line.strip()
                break
    finally:
        served.stdin.close()
        served.wait(60)
        served.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_of_ray_builds_trains_and_sweeps(
    run_file: Path, dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(dashboard)
    python_path = os.pathsep.join([str(Path.cwd()), *sys.path])
    os.environ["PYTHONPATH"], before = python_path, os.environ.get("PYTHONPATH")
    try:
        for command, file in (
            ("cache", run_file), ("train", run_file), ("sweep", sweep_file(run_file, seeds=(0,))),
        ):  # fmt: skip
            asked = (
                command, file, "--to", "ray", "--address", dashboard, "--python", sys.executable,
                "--gpus", 0, "--cpus", 1, "--secret", "PYTHONPATH",
            )  # fmt: skip
            until = time.monotonic() + 120
            while "No available agent" in (done := submit(*asked)).stderr:  # it is starting yet
                assert time.monotonic() < until, done.stderr
                time.sleep(1)
            assert done.exit_code == 0, done.stderr
            made = done.stdout.split()[1].rstrip(";")
            until = time.monotonic() + 300
            while not client.get_job_status(made).is_terminal() and time.monotonic() < until:
                time.sleep(0.5)
            assert client.get_job_status(made) == JobStatus.SUCCEEDED, client.get_job_logs(made)
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    verified: Any = CliRunner().invoke(main, ["cache", "verify", "street.cache"])
    assert "complete and sound" in verified.stdout
    assert Path("run/model.safetensors").is_file()
    assert "| it's both | " in Path("students/table.md").read_text()
