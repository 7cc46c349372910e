"""Noise in the place of samples: smooth along the sides of images, white elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.data.noise import noise


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (64, 24, 40, 3), (64, 1, 28, 28)])
def test_neighbouring_pixels_of_images_are_alike(shape: tuple[int, ...]) -> None:
    drawn = noise(shape, np.random.default_rng(0))
    assert drawn.shape == shape
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(np.square(drawn.reshape(64, -1)).mean(1), 1.0, rtol=1e-5)
    axis = 1 if shape[3] == 3 else 2
    pixels = np.moveaxis(drawn, axis, 0)
    correlation = (pixels[1:] * pixels[:-1]).mean() / np.square(pixels).mean()
    assert correlation > 0.8


def test_amplitudes_fall_with_the_frequency() -> None:
    spectrum = np.abs(np.fft.rfft2(noise((256, 1, 64, 64), np.random.default_rng(1))[:, 0])).mean(0)
    assert spectrum[0, 0] < 1e-2
    slope = np.polyfit(np.log([2, 4, 8, 16]), np.log(spectrum[0, [2, 4, 8, 16]]), 1)[0]
    assert slope == pytest.approx(-1.5, abs=0.05)


@pytest.mark.parametrize("shape", [(256, 64), (64, 16, 20), (64, 3, 4, 4), (8, 16, 6, 40)])
def test_other_inputs_are_white(shape: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    np.testing.assert_array_equal(noise(shape, np.random.default_rng(2)), wanted)


def test_no_samples_are_no_samples() -> None:
    assert noise((0, 3, 32, 32), np.random.default_rng(3)).shape == (0, 3, 32, 32)
