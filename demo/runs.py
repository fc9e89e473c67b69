"""A node whose agent launches runs: approving their classes, starting them, hearing of them, and ending them whatever
happens."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from node import DEMO, ROOT, Node
from stage import DEADLINE_SECONDS, Agent, Failed, until

# The runs see no home, and import what was laid out for them alone.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GRPC_VERBOSITY": "ERROR", "LANGSMITH_TRACING": "false"}
PATIENCE_SECONDS = 2 * DEADLINE_SECONDS  # frameworks take their time to be imported


class Runs:
    """Stands among the processes of the stage, to be ended before the node agent is: without it runs would live on. The
    agent ends runs whose launchers are gone, within seconds."""

    def __init__(self, swarm):
        self._own = str(swarm.agents_folder).encode()
        self._agent = swarm.agent
        self._group = swarm.group

    def end(self):
        if self._group:
            (self._group / "cgroup.kill").write_text("1")
        until("the runs have ended", self._ended, self._agent)

    def _ended(self):
        populated = self._group and "populated 1" in (self._group / "cgroup.events").read_text()
        return not populated and not any(map(self._ours, Path("/proc").glob("[0-9]*")))

    def _ours(self, process):
        """Whether it names the folder of this demo's agents, which no other has."""
        try:
            return self._own in (process / "cmdline").read_bytes()
        except OSError:
            return False  # it has ended


class Group:
    """A folder of control groups (cgroup v2) for the runs; goes when the agent has ended. `path` is None where none can be
    made: then launchers are told why nothing is launched."""

    def __init__(self):
        own = next((text[4:] for text in _lines("/proc/self/cgroup") if text.startswith("0::/")), "")
        mounts = (place for _, place, kind, *_ in map(str.split, _lines("/proc/self/mounts")) if kind == "cgroup2")
        self.path = Path(next(mounts, "/nowhere")) / own / f"vouchsafe-demo-{os.getpid()}"
        try:
            self.path.mkdir()
        except OSError:
            self.path = None

    def end(self):
        if self.path:
            shutil.rmtree(self.path, ignore_errors=True)  # its files cannot be removed, and go with it
            if self.path.exists():
                raise Failed(f"the control group {self.path} cannot be removed")


def _lines(file):
    return Path(file).read_text().splitlines()


class LaunchingNode(Node):
    def __init__(self, binaries, stage):
        super().__init__(binaries, stage)
        self.agents_folder = stage.open / "agents"
        self.launch_socket = stage.open / "run" / "launch.sock"
        self.group = stage.add(Group()).path
        self.ids = {}

    def on_server(self, *arguments):
        return self.must("--server-socket", self.server_socket, *arguments)

    def runs(self):
        return json.loads(self.on_server("run", "list", "--output", "json"))

    def furnish(self):
        """What the agents need beside their own files."""
        shutil.copy(DEMO / "agents" / "swarm.py", self.agents_folder)
        shutil.copy(self.binaries / "vouchsafe", self.stage.open)
        command = [self.stage.python, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}",
                   f"--python_out={self.agents_folder}", f"--grpc_python_out={self.agents_folder}",
                   "vouchsafe/launch/v1/launch.proto", "vouchsafe/run/v1/run.proto"]
        if subprocess.run(command, cwd="/").returncode != 0:
            raise Failed("the Python modules of the launch API could not be generated")

    def agent_config(self):
        launch = {"launch.socket": self.launch_socket, "launch.programs_dir": self.stage.open / "programs"}
        return {**launch, "launch.cgroup": self.group} if self.group else launch

    def node(self):
        super().node()
        self.stage.add(Runs(self))

    def approve(self, name, launcher, first_uid, rest):
        """Create a class of one of the programs, with all the modules that stand beside it."""
        script = self.agents_folder / f"{name}.py"
        spec = ["any_node = true", f'launchers = ["{launcher}"]',
                f"user = {{ first_uid = {first_uid}, last_uid = {first_uid + 3} }}", *rest, "[program]",
                f"executable = {measured(self.stage.python)}", f"script = {measured(script)}", "extra_args = true"]
        modules = [file for file in sorted(self.agents_folder.rglob("*.py")) if file != script]
        spec += [f'[[files]]\nrole = "other"\n{measured(file, table=False)}' for file in modules]
        file = self.stage.home / f"{name}.toml"
        file.write_text("\n".join(spec) + "\n")
        self.on_server("class", "create", name, "--id", identity(name), "--file", file)

    def start(self, name, task, facts):
        """A run, launched by the operator's shell; returns when it knows who it is."""
        command = [self.binaries / "vouchsafe", "--launch-socket", self.launch_socket, "run", "--quiet", "--class", name,
                   "--task", task, "--", self.stage.python, self.agents_folder / f"{name}.py", json.dumps(facts)]
        log = self.stage.home / f"{name}.log"
        run = self.stage.add(Agent(name, command, log, cwd="/", env=ENVIRONMENT))
        self.met(name, run.event("identity", seconds=PATIENCE_SECONDS)["spiffe_id"])
        return run

    def met(self, name, told):
        run = re.fullmatch(rf"{identity(name)}/run/([0-9A-Z]{{26}})", told)
        if not run:
            raise Failed(f"a run of class {name} is {told}")
        self.ids[name] = told
        return run[1]


def identity(name):
    return f"spiffe://example.org/agent/{name}"


def measured(file, table=True):
    """A file as a class has it."""
    parts = f'path = "{file}"', f'sha256 = "{hashlib.sha256(file.read_bytes()).hexdigest()}"'
    return f"{{ {', '.join(parts)} }}" if table else "\n".join(parts)
