"""The planner: a pydantic-ai agent whose tool starts other agents, through the launch API. Each run that it starts has
a SPIFFE ID of its own, which the planner knows before the run does: it takes a result over mTLS from that run alone."""

import json
import queue
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

from launches import Launcher
from swarm import identity, orders, serve, tell

PATIENCE_SECONDS = 120


def model(messages, _):
    """The scripted model: the researcher, then the coder with the researcher's SPIFFE ID, then the answer."""
    told = [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    match told:
        case []:
            part = ToolCallPart("delegate", {"agent": "researcher", "work": {"question": "what is the median?"}})
        case [research]:
            part = ToolCallPart("delegate", {"agent": "coder", "work": {"author": research["by"]}})
        case [*_, code]:
            part = TextPart(code["result"])
    return ModelResponse(parts=[part])


class Planner:
    def __init__(self, facts):
        self.facts = facts
        self.source = identity()
        self.id = str(self.source.svid.spiffe_id)
        self.launcher = Launcher()
        self.runs = []

    def command(self, agent):
        return sys.executable, str(Path(__file__).with_name(f"{agent}.py"))

    def by_a_child(self):
        """`vouchsafe run` as a subprocess: a child of this run, which is not its main process."""
        command = [self.facts["vouchsafe"], "run", "--class", "researcher", "--", *self.command("researcher"), "{}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        tell("by_a_child", code=done.returncode, said=done.stderr.strip())

    def delegate(self, agent: str, work: dict) -> dict:
        """Have an agent do a piece of work."""
        results, expected = queue.Queue(), Future()
        address = serve(self.source, expected.result, results.put)
        task = f"{self.facts['task']}-{len(self.runs) + 1}"
        given = {**work, "planner": self.id, "planner_address": address, **self.facts["server"]}
        run = self.launcher.launch(agent, task, *self.command(agent), json.dumps(given))
        expected.set_result(run.spiffe_id)
        self.runs.append(run)
        started = run.started()
        tell("launched", cls=agent, task=task, spiffe_id=run.spiffe_id, pid=started.pid, uid=started.uid)
        threading.Thread(target=self.pass_on, args=(agent, run), daemon=True).start()
        result = results.get(timeout=PATIENCE_SECONDS)["result"]
        tell("result", cls=agent, sender=run.spiffe_id, result=result)
        return {"by": run.spiffe_id, "result": result}

    def pass_on(self, agent, run):
        for line in run.output():
            tell("said", cls=agent, line=line)

    def end(self):
        for run in reversed(self.runs):
            ended = run.end()
            tell("ended", spiffe_id=run.spiffe_id, signalled=ended.signalled, reason=ended.reason)


def main():
    planner = Planner(json.loads(sys.argv[1]))
    planner.by_a_child()
    agent = Agent(FunctionModel(model), tools=[planner.delegate])
    tell("answer", text=agent.run_sync("write a function for the median").output)
    for order in orders():
        if order["do"] == "end":
            planner.end()
            return


main()
