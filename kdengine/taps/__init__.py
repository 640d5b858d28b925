"""Taps: their grammar, their resolution in a network, and their recording. No other package touches hooks."""

from kdengine.taps.anatomy import Anatomy
from kdengine.taps.grammar import Tap, parse, split_pair
from kdengine.taps.recorder import Recorder
from kdengine.taps.trace import Trace

__all__ = ["Anatomy", "Recorder", "Tap", "Trace", "parse", "split_pair"]
