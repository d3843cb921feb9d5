"""uint8 batches -> K views of every image; ViewStream in stream.py is the one object that makes them."""

from effssl.data import ffcv_setup as ffcv_setup  # before decode_crops imports FFCV
