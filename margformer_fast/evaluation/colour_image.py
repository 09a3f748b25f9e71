"""Pictures of stamps in colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MISSING_PIXEL = (0.85, 0.85, 0.9)


def red_green_blue(bands: Sequence[str]) -> tuple[str, str, str]:
    """Return the bands shown as red, green and blue: i, r, g, or those around the middle one."""
    if {"g", "r", "i"} <= set(bands):
        return ("i", "r", "g")
    middle = len(bands) // 2
    return (bands[min(middle + 1, len(bands) - 1)], bands[middle], bands[max(middle - 1, 0)])


def colour_image(stamp: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Turn a multi-band stamp into a colour picture by an asinh stretch (after Lupton et al. 2004).

    Red, green and blue are i, r and g, or the three middle bands if these are not there. The sky (median) is
    removed, the mean of the three is stretched so that noise stays linear and bright centres do not burn
    out, and colours keep their ratio where there is light.

    Parameters
    ----------
    stamp : ndarray of float, shape (bands, size, size)
        A pixel that is NaN in all three is drawn light grey.
    bands : sequence of str
        Names of the planes.

    Returns
    -------
    ndarray of float64, shape (size, size, 3)
        From 0 to 1.
    """
    image = np.stack([np.asarray(stamp[bands.index(b)], np.float64) for b in red_green_blue(bands)], axis=-1)
    image[~np.isfinite(image)] = np.nan
    missing = np.isnan(image).all(axis=-1)
    known = image[~missing]
    sky = np.array(
        [np.median(plane[np.isfinite(plane)]) if np.isfinite(plane).any() else 0.0 for plane in known.T]
    )
    # Weights that make an object of typical colour (g - r, r - i = 0.6, 0.3 mag) white.
    image = np.nan_to_num(image - sky) * (0.75, 1.0, 1.75)
    mean = image.mean(axis=-1, keepdims=True)
    noise = 1.4826 * float(np.median(np.abs(mean[~missing]))) if known.size else 1.0
    noise = noise or float(np.abs(mean).max()) / 100 or 1.0
    black, soft = -0.5 * noise, 4 * noise
    # A bright neighbour at the edge must not decide how the object in the middle looks.
    quarter = len(mean) // 4
    peak = max(float(mean[quarter : len(mean) - quarter, quarter : len(mean) - quarter].max()), 7 * noise)
    level = np.arcsinh(np.clip(mean - black, 0, None) / soft) / np.arcsinh((peak - black) / soft)
    # Colour only where there is light: that of pure noise would drown a faint object.
    light = np.clip(mean / (6 * noise), 0, 1)
    tint = 1 + light * (image / np.maximum(mean, noise) - 1)
    picture = np.minimum(level, 1.5) * np.clip(tint, 0, 3)
    picture = np.clip(picture / np.maximum(picture.max(axis=-1, keepdims=True), 1.0), 0, 1)
    picture[missing] = _MISSING_PIXEL
    return picture
