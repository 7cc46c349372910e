"""Noise in the place of samples: smooth where an input looks like images, else white. Pure numpy.

The spectra of photographs fall with the spatial frequency f, in amplitude about as 1 / f (Field, 1987), so neighbouring
pixels are alike, and filters have learned to read such inputs. Networks that are pruned or factored by noise of that
kind keep far more of what they can than by white noise.
"""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Floats32

__all__ = ["noise"]

EXPONENT = 1.5
"""Of the frequency by which amplitudes are divided. With 1 or 2 networks that were factored by such noise kept less of
their accuracy, with 0 much less (docs/data.md)."""
LEAST_SIDE = 8
"""Fewer pixels have next to no frequencies."""
COLOURS = 4
"""Most channels that an image has; where the last axis has no more, it is theirs."""


def noise(shape: tuple[int, ...], rng: np.random.Generator) -> Floats32:
    """Draw noise of mean square 1: smooth along the sides of images, independent otherwise.

    Args:
        shape: (N, C, H, W) or (N, H, W, C) for images.
        rng: Generator.
    """
    drawn = rng.standard_normal(shape, dtype=np.float32)
    sides = _sides(shape)
    if sides is None:
        return drawn
    height, width = (shape[axis] for axis in sides)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    # No mean: what a sample has in all its pixels would be more than the rest of it.
    frequency[0, 0] = np.inf
    amplitude = np.expand_dims(frequency**-EXPONENT, 2) if sides[1] < len(shape) - 1 else frequency**-EXPONENT
    for sample in drawn:
        axes = [axis - 1 for axis in sides]
        smooth = np.fft.irfft2(np.fft.rfft2(sample, axes=axes) * amplitude, (height, width), axes)
        sample[...] = smooth / np.sqrt(np.square(smooth).mean())
    return drawn


def _sides(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the axes of height and width; None where an input is no image."""
    if len(shape) != 4 or not shape[0]:
        return None
    sides = (1, 2) if shape[3] <= COLOURS else (2, 3)
    return sides if min(shape[axis] for axis in sides) >= LEAST_SIDE else None
