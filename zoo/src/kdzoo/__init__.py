"""Networks for small images, registered with timm: ``import kdzoo; timm.create_model("resnet8")``."""

from kdzoo.cifar_resnet import CifarResNet

__all__ = ["CifarResNet"]
