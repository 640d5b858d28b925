"""Tiny networks of different architectures, fast enough for unit tests."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kdengine.seeds import seeded

__all__ = ["tiny_pair", "vit_pair"]


class TinyCNN(nn.Module):
    """Three stages of convolution, normalisation and ReLU, each halving the map size, and a classifier.

    Args:
        width: channels of the first stage; doubled by each further stage.
        num_classes: K.
        stride: stride of the first convolution.
    """

    def __init__(self, width: int, num_classes: int = 10, stride: int = 1) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.stem = _block(3, width, stride)
        self.stages = nn.Sequential(*(_block(i, o, 2) for i, o in zip([width, *widths], widths, strict=False)))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, K]."""
        logits: Tensor = self.fc(self.stages(self.stem(x)).mean((2, 3)))
        return logits


class TinyViT(nn.Module):
    """8 x 8 patches, a class token, four transformer blocks, and a classifier on the class token.

    Args:
        width: width of the tokens; a multiple of 2.
        num_classes: K.
        size: height and width of the images.
    """

    def __init__(self, width: int, num_classes: int = 10, size: int = 32) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.net = VisionTransformer(
            img_size=size, patch_size=8, num_classes=num_classes, embed_dim=width, depth=4, num_heads=2, mlp_ratio=2.0
        )
        self.feature_info = [{"module": f"net.blocks.{n}", "num_chs": width, "reduction": 8} for n in range(4)]

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        classifier: nn.Module = self.net.head
        return classifier

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, K]."""
        logits: Tensor = self.net(x)
        return logits


def tiny_pair(num_classes: int = 10, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A teacher and a student, both CNNs, with different widths and map sizes; for images [B, 3, 32, 32]."""
    return _pair(seed, lambda: TinyCNN(8, num_classes), lambda: TinyCNN(4, num_classes, stride=2))


def vit_pair(num_classes: int = 10, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A vision transformer as teacher, and a CNN as student; for images [B, 3, 32, 32]."""
    return _pair(seed, lambda: TinyViT(12, num_classes), lambda: TinyCNN(4, num_classes))


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _pair(seed: int, teacher: Callable[[], nn.Module], student: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    with seeded(seed):
        return teacher().eval(), student()
