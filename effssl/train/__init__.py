"""Pretrain a timm backbone with a K-view loss: VICReg, Barlow Twins and baselines beside them.

effssl train --views 4 --proj-dim 256                       # scikit-learn's digits
effssl train --config configs/cifar10.yaml --data-dir DIR   # CIFAR-10
effssl train --data folder --data-dir MY_IMAGES             # your own
effssl train --init RUN --data folder --data-dir MY_IMAGES  # from weights that are there
effssl train --resume RUN
effssl train ... --look look.png                            # what the images and views are
effssl train ... --plan                                     # what it would take
torchrun --nproc-per-node 4 -m effssl.train ...             # any of these on four GPUs
"""
