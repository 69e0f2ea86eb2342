"""A volume goes from one step to the next in memory, to its own order only, and never stays longer than needed."""

import numpy as np

from dicomnode.imaging import Geometry, SliceSource, Volume
from dicomnode.steps.handover import Handover


def a_volume() -> Volume:
    geometry = Geometry(np.eye(4)[[2, 1, 0, 3]], (1, 2, 2), "1.2.3")
    return Volume(np.zeros((1, 2, 2), np.int16), geometry, (SliceSource("1.1", "1.2"),))


def test_an_order_takes_what_was_left_for_it_once():
    handover, volume = Handover(), a_volume()
    handover.leave("one", (volume, "CT"))
    assert handover.take("one") == (volume, "CT")
    assert handover.take("one") is None


def test_an_order_never_takes_the_volume_of_another():
    handover = Handover()
    handover.leave("one", (a_volume(), "CT"))
    assert handover.take("two") is None


def test_a_new_volume_takes_the_place_of_the_old_one():
    handover = Handover()
    handover.leave("one", (a_volume(), "CT"))
    handover.leave("two", (a_volume(), "MR"))
    assert handover.take("one") is None
    assert handover.take("two") is not None


def test_what_is_cleared_is_gone():
    handover = Handover()
    handover.leave("one", (a_volume(), "CT"))
    handover.clear()
    assert handover.take("one") is None
