"""torchvision's and timm's ResNet-18/34, with neurons of any kind in place of their ReLUs.

As an ann with `relu` the network computes exactly what theirs do, from their weights.
"""

from functools import partial

from train.networks.resnet import Design, ResNet

TORCHVISION = Design(bias=False, norm_identity=False, norm_scale=1.0, pool=1)

resnet18 = partial(ResNet, design=TORCHVISION, depths=(2, 2, 2, 2))
resnet34 = partial(ResNet, design=TORCHVISION, depths=(3, 4, 6, 3))
