"""Schedules: weights that change over the steps of a training run, one concept a file."""

from dskd_components.schedules.cosine import CosineSchedule
from dskd_components.schedules.linear import LinearSchedule
from dskd_components.schedules.piecewise import PiecewiseSchedule
from dskd_components.schedules.schedule import Schedule

__all__ = ["CosineSchedule", "LinearSchedule", "PiecewiseSchedule", "Schedule"]
