"""Write a run's backbone as a folder that plain timm loads, without effssl.

effssl export runs/RUN --to DIR
effssl export runs/RUN --to DIR --onnx --projector
"""
