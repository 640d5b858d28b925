import itertools

import numpy as np
import pytest

from kdengine.report.palette import LINES, SHADES

SIGHTS = {  # Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour):
    value = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(colour, sight):
    lms = np.array(
        [[0.41222147, 0.53633254, 0.05144599], [0.21190350, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870]]
    )
    lab = np.array(
        [[0.21045426, 0.79361779, -0.00407205], [1.97799850, -2.42859221, 0.45059371], [0.02590404, 0.78277177, -0.80867577]]
    )
    return lab @ np.cbrt(lms @ np.clip(SIGHTS[sight] @ linear(colour), 0, 1))


def contrast(one, other):
    dark, light = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def shades(scheme):
    found = {shade.name: getattr(shade, scheme) for shade in SHADES}
    return found, [found["plain"], *(found[f"line-{number}"] for number in range(1, len(LINES) + 1))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_no_two_lines_look_alike(scheme, sight):
    _, lines = shades(scheme)
    nearest = min(np.linalg.norm(oklab(one, sight) - oklab(other, sight)) for one, other in itertools.combinations(lines, 2))
    assert nearest > 0.09


@pytest.mark.parametrize(("scheme", "lines_from"), [("light", 2.4), ("dark", 3.2)])
def test_lines_and_texts_stand_out_from_the_ground(scheme, lines_from):
    found, lines = shades(scheme)
    assert all(contrast(line, found["ground"]) >= lines_from for line in lines)
    for ground in ("ground", "raised"):
        assert contrast(found["ink"], found[ground]) > 10
        assert contrast(found["muted"], found[ground]) > 4.5


def test_every_shade_is_one_colour_of_its_own():
    assert len({shade.light for shade in SHADES}) == len(SHADES) == len({shade.name for shade in SHADES})
