"""Store every split of an image set as .beton files, which `python -m effssl.train` with these settings then reads.

python -m effssl.prepare --data imagenet --data-dir DIR --workers 16
python -m effssl.prepare --data folder --data-dir MY_IMAGES --skip-corrupt
"""
