"""A listener of its own: `listen.py FOLDER` prints its port, then one line per event; ends when stdin closes."""

import sys
from pathlib import Path

from dicomnode.ledger.records import ReceivedInstance
from dicomnode.receive import Events, Listener, Spool
from tests.listening import listening_config


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - what the test reads


def on_received(instance: ReceivedInstance, association: int) -> None:
    say("received", association, instance.sop_instance_uid)


config = listening_config(Path(sys.argv[1]))
events = Events(
    on_received,
    lambda end: say("ended", end.outcome),
    lambda report: say("report", report.transaction_uid),
    lambda call: say("rejected", call.reason),
)
listener = Listener(config, Spool(config.node.spool_dir, 0), events, port=0)
listener.start()
say(listener.port)
sys.stdin.read()
listener.stop()
