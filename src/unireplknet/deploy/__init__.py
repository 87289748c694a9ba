"""From a trained network to one that runs elsewhere: merge, export, verify, time."""

from unireplknet.deploy.onnx import export_onnx as export_onnx
