"""From a trained network to one that runs elsewhere: merge, export, verify, time."""

from unireplknet.deploy.targets import export_network as export_network
from unireplknet.deploy.targets import export_onnx as export_onnx
