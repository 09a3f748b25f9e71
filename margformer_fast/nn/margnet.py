"""MargNet: the published baseline of two networks, one of features and one of images, and their ensemble.

Shape suffixes: B objects, F features, C bands or channels, S stamp side, K classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from ..config import MargNetConfig
from .inputs import InputScaling

_DNN = (1024, 256, 128, 64, 32)
_FIRST = 64
_BLOCKS = ((48, 64), (64, 92), (92, 128), (92, 128))
_POOLED_AFTER = (1, 3)
_LAST = (92, 128)
_DENSE = 1024
_HEAD = 10


def _glorot(module: nn.Module) -> None:
    """Start weights as Keras does: uniform after Glorot & Bengio (2010), biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MargNetDNN(nn.Module):
    """The network of features: five sigmoid layers of 1024, 256, 128, 64 and 32 units with dropout.

    Parameters
    ----------
    config : MargNetConfig
        Number of features, and the dropout.
    num_classes : int
        Number of classes K.
    """

    def __init__(self, config: MargNetConfig, num_classes: int) -> None:
        super().__init__()
        layers = [
            layer
            for fan_in, fan_out in pairwise((config.num_features, *_DNN))
            for layer in (nn.Linear(fan_in, fan_out), nn.Sigmoid(), nn.Dropout(config.dropout))
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(_DNN[-1], num_classes))
        _glorot(self)

    def forward(self, feature_BF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, K)."""
        return self.layers(feature_BF)


class InceptionBlock(nn.Module):
    """Filters of three sizes side by side, each behind a narrow 1x1 convolution, and the input reduced.

    Parameters
    ----------
    channels, reduced, wide : int
        Channels of the input, filters of each of the three 1x1 convolutions in front, and filters of each
        of the 1x1, 3x3 and 5x5 convolutions behind.
    """

    def __init__(self, channels: int, reduced: int, wide: int) -> None:
        super().__init__()
        self.to_small = nn.Conv2d(channels, reduced, 1)
        self.to_large = nn.Conv2d(channels, reduced, 1)
        self.passed = nn.Conv2d(channels, reduced, 1)
        self.one = nn.Conv2d(reduced, wide, 1)
        self.three = nn.Conv2d(reduced, wide, 3, padding="same")
        self.five = nn.Conv2d(reduced, wide, 5, padding="same")
        self.num_channels = 3 * wide + reduced

    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return maps of the 1x1, the 3x3 and the 5x5 filters and the reduced input, in this order."""
        small, large = F.relu(self.to_small(x_BCSS)), F.relu(self.to_large(x_BCSS))
        branches = (self.one(small), self.three(small), self.five(large), self.passed(x_BCSS))
        return F.relu(torch.cat(branches, dim=1))


class LastBlock(nn.Module):
    """The block in front of the dense layers: without 5x5 filters, and its 1x1 filters see the input itself.

    Parameters
    ----------
    channels, reduced, wide : int
        As for :class:`InceptionBlock`.
    """

    def __init__(self, channels: int, reduced: int, wide: int) -> None:
        super().__init__()
        self.to_three = nn.Conv2d(channels, reduced, 1)
        self.passed = nn.Conv2d(channels, reduced, 1)
        self.one = nn.Conv2d(channels, wide, 1)
        self.three = nn.Conv2d(reduced, wide, 3, padding="same")
        self.num_channels = 2 * wide + reduced

    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return maps of the 1x1 and the 3x3 filters and the reduced input, in this order."""
        three = self.three(F.relu(self.to_three(x_BCSS)))
        return F.relu(torch.cat((self.one(x_BCSS), three, self.passed(x_BCSS)), dim=1))


class MargNetCNN(nn.Module):
    """The network of images: five Inception-like blocks and two linear layers of 1024 units.

    The published dense layers have no activation. Its first one reads the maps by row, column and channel.

    Parameters
    ----------
    config : MargNetConfig
        Number of bands, side of the stamps, and the share of the published filters and units.
    num_classes : int
        Number of classes K.
    """

    def __init__(self, config: MargNetConfig, num_classes: int) -> None:
        super().__init__()

        def narrowed(count: int) -> int:
            return max(1, round(count * config.width))

        channels = narrowed(_FIRST)
        self.first = nn.Conv2d(config.num_bands, channels, 5, padding="same")
        blocks = []
        for reduced, wide in _BLOCKS:
            blocks.append(InceptionBlock(channels, narrowed(reduced), narrowed(wide)))
            channels = blocks[-1].num_channels
        self.blocks = nn.ModuleList(blocks)
        self.last = LastBlock(channels, narrowed(_LAST[0]), narrowed(_LAST[1]))
        side = config.size // 2 ** len(_POOLED_AFTER)
        self.dense1 = nn.Linear(side**2 * self.last.num_channels, narrowed(_DENSE))
        self.dense2 = nn.Linear(narrowed(_DENSE), narrowed(_DENSE))
        self.classes = nn.Linear(narrowed(_DENSE), num_classes)
        _glorot(self)

    def forward(self, image_BCSS: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, K), of images (B, C, S, S).

        Images whose bands run fastest in memory (``torch.channels_last``) are faster and need no copy.
        """
        x_BCSS = F.relu(self.first(image_BCSS))
        for k, block in enumerate(self.blocks):
            x_BCSS = block(x_BCSS)
            if k in _POOLED_AFTER:
                x_BCSS = F.avg_pool2d(x_BCSS, 2)
        flat = self.last(x_BCSS).permute(0, 2, 3, 1).flatten(1)
        return self.classes(self.dense2(self.dense1(flat)))


class MargNetHead(nn.Module):
    """What joins the two networks: their probabilities side by side, ten ReLU units, the classes.

    Parameters
    ----------
    num_classes : int
        Number of classes K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * num_classes, _HEAD)
        self.classes = nn.Linear(_HEAD, num_classes)
        _glorot(self)

    def forward(self, probability_B2K: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, K), of probabilities by the DNN and by the CNN, shape (B, 2K)."""
        return self.classes(F.relu(self.hidden(probability_B2K)))


class MargNet(nn.Module):
    """The ensemble, which takes features and stamps in survey units.

    Parameters
    ----------
    config : MargNetConfig
        Sizes, and whether inputs are scaled.
    num_classes : int
        Number of classes K.

    Notes
    -----
    Chaini et al. (2023), MNRAS 518, 3123. With the default configuration it has the published number of
    parameters: 25,874,128 for two classes, 25,875,217 for three.
    """

    def __init__(self, config: MargNetConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.inputs = InputScaling(config)
        self.dnn = MargNetDNN(config, num_classes)
        self.cnn = MargNetCNN(config, num_classes)
        self.head = MargNetHead(num_classes)

    def of_features(self, feature_BF: torch.Tensor) -> torch.Tensor:
        """Return the DNN's logits, shape (B, K), of features (B, F) in survey units."""
        return self.dnn(self.inputs.scale_photometry(feature_BF))

    def of_images(self, image_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the CNN's logits, shape (B, K), of stamps (B, C, S, S) in the survey's flux unit."""
        pixel_BSSC = self.inputs.scale_pixels(image_BCSS.permute(0, 2, 3, 1))
        return self.cnn(pixel_BSSC.permute(0, 3, 1, 2))

    def joined(self, dnn_BK: torch.Tensor, cnn_BK: torch.Tensor) -> torch.Tensor:
        """Return the ensemble's logits, shape (B, K), of the two networks' logits."""
        return self.head(torch.cat((dnn_BK.softmax(dim=1), cnn_BK.softmax(dim=1)), dim=1))

    def forward(self, feature_BF: torch.Tensor, image_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the ensemble's logits, shape (B, K)."""
        return self.joined(self.of_features(feature_BF), self.of_images(image_BCSS))
