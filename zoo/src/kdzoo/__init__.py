"""Networks for small images, registered with timm: ``import kdzoo; timm.create_model("resnet8")``."""

from kdzoo.bottleneck_resnet import BottleneckResNet
from kdzoo.catalogue import NETWORKS
from kdzoo.cifar_mobilenetv2 import CifarMobileNetV2
from kdzoo.cifar_resnet import CifarResNet
from kdzoo.cifar_vgg import CifarVGG
from kdzoo.network import Network
from kdzoo.plain_cnn import PlainCNN
from kdzoo.shufflenetv1 import ShuffleNetV1
from kdzoo.shufflenetv2 import ShuffleNetV2
from kdzoo.small_cnn import SmallCNN
from kdzoo.wide_resnet import WideResNet

__all__ = [
    "NETWORKS",
    "BottleneckResNet",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarVGG",
    "Network",
    "PlainCNN",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "SmallCNN",
    "WideResNet",
]
