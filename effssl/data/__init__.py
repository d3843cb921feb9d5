"""Images: found as files, stored once as .beton, read back as uint8 batches."""

import effssl.data.ffcv_setup as _  # before anything else imports FFCV
