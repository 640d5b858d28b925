"""Observation points of networks: how they are written, found, and recorded. The only place that touches hooks."""

from kdengine.taps.anatomy import Anatomy
from kdengine.taps.grammar import Tap, parse, split_pair
from kdengine.taps.recorder import Recorder
from kdengine.taps.trace import Trace

__all__ = ["Anatomy", "Recorder", "Tap", "Trace", "parse", "split_pair"]
