"""Store every split of an image set as .beton files, which training with the same flags reads.

effssl prepare --data imagenet --data-dir DIR
effssl prepare --data folder --data-dir MY_IMAGES --skip-corrupt
"""
