"""Images: found as files, stored once as .beton, read back as uint8 batches."""

from effssl.data import ffcv_setup as ffcv_setup  # before anything else imports FFCV
