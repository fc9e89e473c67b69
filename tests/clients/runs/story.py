"""What a run of an agent and the processes that it starts get: one line of JSON for each, `{"who": …, "got": …}`.

usage: story.py                 the main process, a child, and what the child starts, each asks
       story.py ask WHO         this process asks
       story.py steal           looks for a private key in its parent's memory
       story.py jwt AUDIENCE    asks for a JWT-SVID
       story.py hold AUDIENCE   asks for a JWT-SVID, and stays until it is killed
       story.py exit CODE       ends with that code
       story.py nurse           starts a child and waits for it
       story.py launch COMMAND  has a child run that command
       story.py leave           leaves a process behind that stays
       story.py stay [WHO]      asks, and asks again at each SIGUSR1, until it is killed
       story.py family          has a child that stays, and starts one that asks at each SIGUSR1, until it is killed

`--model NAME` may stand before all that: it is not looked at.
"""

import os
import signal
import subprocess
import sys

from spiffe import WorkloadApiClient
from thief import say, steal

SECONDS = 20


def ask():
    try:
        with WorkloadApiClient(default_timeout=SECONDS) as client:
            return [str(svid.spiffe_id) for svid in client.fetch_x509_context().x509_svids]
    except Exception as error:  # What came of it is the result, whatever it is.
        return f"{type(error).__name__}: {error}"


def hold_key():
    """Asks, and has the key from now on in this process's memory in a form that a thief knows."""
    with WorkloadApiClient(default_timeout=SECONDS) as client:
        svid = client.fetch_x509_context().default_svid
        from cryptography.hazmat.primitives import serialization as form

        pem = svid.private_key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    say("main", [str(svid.spiffe_id)])
    return pem


def jwt(audience):
    try:
        with WorkloadApiClient(default_timeout=SECONDS) as client:
            return client.fetch_jwt_svid(audience={audience}).token
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main():
    me = [sys.executable, os.path.abspath(__file__)]
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("--model"):
        del arguments[: 1 if "=" in arguments[0] else 2]
    match arguments:
        case ["ask", who]:
            say(who, ask())
        case ["steal"]:
            say("thief", steal(os.getppid()))
        case ["jwt", audience]:
            say("main", jwt(audience))
        case ["hold", audience]:
            say("main", jwt(audience))
            signal.pause()
        case ["nurse"]:
            subprocess.run(["/bin/sleep", "600"])
        case ["launch", *command]:
            sys.exit(subprocess.run(command).returncode)
        case ["exit", code]:
            sys.exit(int(code))
        case ["leave"]:
            subprocess.Popen([*me, "stay"], start_new_session=True)
        case ["stay", *who]:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            while True:
                say(*who or ["main"], ask())
                signal.sigwait({signal.SIGUSR1})
        case ["family"]:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            subprocess.Popen([*me, "stay", "elder"])
            while signal.sigwait({signal.SIGUSR1}):
                subprocess.run([*me, "ask", "younger"])
        case []:
            pem = hold_key()
            ways = {
                "child": me,
                "shell": ["/bin/sh", "-c", '"$@"', "sh", *me],
                "session": ["setsid", *me],
                "nohup": ["nohup", *me],
                "daemon": ["/bin/sh", "-c", 'setsid "$@" < /dev/null & wait', "sh", *me],
            }
            for who, command in ways.items():
                subprocess.run([*command, "ask", who], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["/bin/sh", "-c", 'exec "$@" steal', "sh", *me])
            say("again", ask())
            assert pem


if __name__ == "__main__":
    main()
