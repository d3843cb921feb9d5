"""Pretrain a timm backbone with a K-view loss: VICReg, Barlow Twins and baselines beside them.

python -m effssl.train --views 4 --proj-dim 256                       # scikit-learn's digits
python -m effssl.train --config configs/cifar10.yaml --data-dir DIR   # CIFAR-10
python -m effssl.train --data folder --data-dir MY_IMAGES             # your own
python -m effssl.train --resume RUN
torchrun --nproc-per-node 4 -m effssl.train ...                       # any of these on four GPUs
"""
