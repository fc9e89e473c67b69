"""An agent program in whatever Python, and what the processes get that it starts by that Python's own means: one line of JSON for
each, `{"who": …, "got": …}`. It needs no package.

usage: pythons.py         asks, and has a process started by each means ask and look for the key
       pythons.py try WHO MAIN
       pythons.py crash   crashes with faulthandler on
"""

import asyncio
import concurrent.futures
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile

from raw import CALL, OPENING, connect, outcome
from thief import say, steal

ME = os.path.abspath(__file__)


def ask():
    connection = connect(os.environ["SPIFFE_ENDPOINT_SOCKET"].removeprefix("unix:").removeprefix("//"))
    connection.sendall(OPENING + CALL)
    return outcome(connection)


def tried(who, main):
    say(who, {"svid": ask(), "key": steal(main)})


def trying(who):
    return [sys.executable, ME, "try", who, str(os.getpid())]


def multiprocessed():
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        process = context.Process(target=tried, args=(method, os.getpid()))
        process.start()
        process.join()
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(tried, "pool", os.getpid()).result()


async def awaited():
    process = await asyncio.create_subprocess_exec(*trying("asyncio"))
    await process.wait()


def spawned():
    subprocess.run(trying("subprocess"), check=True)
    subprocess.run(" ".join(trying("shell")), shell=True, check=True)
    asyncio.run(awaited())
    os.waitpid(os.posix_spawn(sys.executable, trying("posix_spawn"), os.environ), 0)
    os.waitpid(os.spawnv(os.P_NOWAIT, sys.executable, trying("spawnv")), 0)
    words = trying("fork and exec")
    if os.fork() == 0:
        os.execv(sys.executable, words)
    os.wait()


def told_by_faulthandler():
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return b"in told_by_faulthandler" in file.read()


def main():
    key = b"-----BEGIN PRIVATE" + b" KEY-----" * len(sys.argv)
    say("main", ask())
    say("prefix", [sys.prefix, sys.executable])
    multiprocessed()
    spawned()
    say("faulthandler", told_by_faulthandler())
    say("again", ask())
    assert key


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["try", who, parent]:
            tried(who, int(parent))
        case ["crash"]:
            faulthandler.enable()
            os.kill(os.getpid(), signal.SIGSEGV)
        case []:
            main()
