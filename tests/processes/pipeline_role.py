"""A role that serves the pipeline's queues with stand-in capabilities: `pipeline_role.py FOLDER`.

Each capability writes a line to FOLDER/log. A file named FOLDER/hold-STEP makes that step wait until it is removed,
so that a test can kill the process inside it; FOLDER/pacs_down makes deliveries fail for now.
"""

import os
import sys
import time
from pathlib import Path

from dicomnode.errors import ModelError, Unavailable, UnusableSeries
from dicomnode.imaging import Finding, Policy, Verdict
from dicomnode.pipeline import Capabilities, Pipeline, Placed, Shipment
from dicomnode.work import Queue, launch, prepare

folder = Path(sys.argv[1])


def note(*words: object) -> None:
    with (folder / "log").open("a") as log:
        log.write(" ".join(map(str, words)) + "\n")


def held(name: str) -> None:
    note("began", name)
    while (folder / f"hold-{name}").exists():
        time.sleep(0.01)


def route(version_id: str) -> list[Placed]:
    if version_id == "unreadable":
        raise ModelError("the header is damaged")
    note("route", version_id)
    return [Placed(f"order-{version_id}", 1, 100)]


def assemble(order_id: str) -> None:
    held("assemble")
    if order_id == "order-gap":
        sentence = "expected slices every 3.0 mm, found a gap of 7.0 mm"
        raise UnusableSeries([Verdict(Finding.MISSING_SLICES, Policy.REFUSE, sentence)])
    note("assemble", order_id)


def infer(order_id: str) -> None:
    note("infer-began", order_id)
    held("infer")
    if order_id == "order-defect":
        raise ZeroDivisionError
    if order_id == "order-busy" and (folder / "gpu_full").exists():
        raise Unavailable("the GPU's memory is full")
    note("infer", order_id)


def encode(order_id: str) -> None:
    held("encode")
    note("encode", order_id)


def check(order_id: str) -> None:
    held("check")
    note("check", order_id)


def ship(order_id: str) -> list[Shipment]:
    held("ship")
    note("ship", order_id)
    return [Shipment(f"result-of-{order_id}", "pacs", 1)]


def deliver(shipment: Shipment) -> float | None:
    held("deliver")
    if (folder / "pacs_down").exists():
        note("down", shipment.sop_instance_uid)
        return 0.3
    note("delivered", shipment.sop_instance_uid)
    return None


def tidy(order_id: str) -> None:
    note("tidy", order_id)


def postpone(order_id: str, error: Exception, turn: int) -> float | None:
    note("postponed", order_id, turn, error)
    return 0.3 if turn < 20 else None


def park(name: str, sentence: str) -> None:
    note("parked", name, sentence)


def refuse(name: str, sentence: str) -> None:
    note("refused", name, sentence)


def main() -> None:
    url = f"sqlite:///{folder / 'work.sqlite'}"
    prepare(url, folder)
    Pipeline(Capabilities(route, refuse, assemble, infer, encode, check, ship, tidy, postpone, park, deliver))
    launch(url, "test-role", list(Queue))
    note("up", os.getpid())
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
