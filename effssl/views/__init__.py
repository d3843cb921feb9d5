"""uint8 batches -> K views of every image, made by one object: ViewStream in stream.py."""

from effssl.data import ffcv_setup as ffcv_setup  # before decode_crops imports FFCV
