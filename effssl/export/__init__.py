"""Write a run's backbone as a folder that plain timm loads, without effssl.

python -m effssl.export runs/RUN --to DIR
python -m effssl.export runs/RUN --to DIR --onnx --projector
"""
