"""uint8 batches -> K views of every image, made by one object: ViewStream in stream.py."""
