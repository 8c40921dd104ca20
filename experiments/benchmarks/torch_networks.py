"""The networks of the comparison in PyTorch, written as a PyTorch user writes them, in the order of cnnjax's layers.

Imported by `torch_side.py` alone, in an environment that has PyTorch. Activations are `[B, C, H, W]` in channels_last.
Modules with weights are made in the order in which cnnjax's networks call theirs: weights are copied by that order.
"""

import torch
import torch.nn.functional as F
from torch import nn


class ChannelsLastFlatten(nn.Module):
    """Flattens with channels fastest, as cnnjax does: in channels_last no byte moves."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class LeNet(nn.Sequential):
    def __init__(self, classes):
        super().__init__(
            nn.Conv2d(1, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            ChannelsLastFlatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )

    def forward(self, x):
        return super().forward(F.pad(x, (2, 2, 2, 2)))


def alexnet(classes):
    norm = lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # PyTorch divides alpha by 5
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4),
        nn.ReLU(),
        norm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        norm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        ChannelsLastFlatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, classes),
    )


def vgg(sizes, side, classes):
    layers, channels = [], 3
    for size, features in zip(sizes, (64, 128, 256, 512, 512)):
        for _ in range(size):
            layers += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU()]
            channels = features
        layers.append(nn.MaxPool2d(2))
    layers += [ChannelsLastFlatten(), nn.Linear(512 * (side // 32) ** 2, 4096), nn.ReLU(), nn.Dropout(0.5)]
    layers += [nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, classes)]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        plan = (
            [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)] if bottleneck else [(width, 3, stride), (width, 3, 1)]
        )
        # The shortcut stands first: cnnjax calls it within the first convolution's turn.
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for features, side, step in plan:
            self.convs.append(nn.Conv2d(inputs, features, side, step, side // 2, bias=False))
            self.norms.append(nn.BatchNorm2d(features))
            inputs = features

    def forward(self, x):
        shortcut = self.shortcut(x) if self.shortcut else x
        for n, (conv, norm) in enumerate(zip(self.convs, self.norms), 1):
            x = norm(conv(x))
            x = F.relu(x) if n < len(self.convs) else x
        return F.relu(x + shortcut)

    def in_order(self):
        """(Modules with weights, as cnnjax calls them)."""
        yield from self.shortcut or ()
        for pair in zip(self.convs, self.norms):
            yield from pair


class ResNet(nn.Module):
    def __init__(self, sizes, bottleneck, small, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False) if small else nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], 64
        for stage, size in enumerate(sizes):
            for index in range(size):
                width = 64 * 2**stage
                blocks.append(Residual(inputs, width, 2 if stage and not index else 1, bottleneck))
                inputs = width * (4 if bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.blocks(self.pool(F.relu(self.norm(self.stem(x)))))
        return self.head(x.mean((2, 3)))

    def in_order(self):
        yield from (self.stem, self.norm)
        for block in self.blocks:
            yield from block.in_order()
        yield self.head


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        wide, layers = inputs * expansion, []
        if expansion > 1:
            layers += [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers, self.same = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.same else self.layers(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes):
        super().__init__()
        plan = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        layers, inputs = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()], 32
        for expansion, outputs, size, stride in plan:
            for index in range(size):
                layers.append(Inverted(inputs, outputs, stride if index == 0 else 1, expansion))
                inputs = outputs
        layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(1280, classes)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        return self.head(self.drop(self.layers(x).mean((2, 3))))


class UNet(nn.Module):
    def __init__(self, base, depth, classes):
        super().__init__()
        pair = lambda i, o: nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU()
        )
        widths = [base * 2**n for n in range(depth + 1)]
        self.down = nn.ModuleList(pair(i, o) for i, o in zip([3, *widths], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(pair(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, x):
        skips = []
        for n, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if n else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1])):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x).permute(0, 2, 3, 1).flatten(0, 2)

    def in_order(self):
        for level in self.down:
            yield from level
        for up, merge in zip(self.up, self.merge):
            yield from (up, *merge)
        yield self.head


NETWORKS = {
    "lenet": lambda side, classes: LeNet(classes),
    "unet16": lambda side, classes: UNet(16, 4, classes),
    "unet": lambda side, classes: UNet(64, 4, classes),
    "alexnet": lambda side, classes: alexnet(classes),
    "resnet18_small": lambda side, classes: ResNet((2, 2, 2, 2), False, True, classes),
    "resnet50": lambda side, classes: ResNet((3, 4, 6, 3), True, False, classes),
    "vgg11": lambda side, classes: vgg((1, 1, 2, 2, 2), side, classes),
    "vgg16": lambda side, classes: vgg((2, 2, 3, 3, 3), side, classes),
    "mobilenetv2": lambda side, classes: MobileNetV2(classes),
}


def with_weights(model) -> list[nn.Module]:
    """The Modules that have weights, in cnnjax's order."""
    modules = model.in_order() if hasattr(model, "in_order") else model.modules()
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)
    return [module for module in modules if isinstance(module, kinds)]
