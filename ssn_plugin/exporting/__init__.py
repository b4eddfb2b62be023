"""Networks for other programs: ONNX files, torch.export programs, and a page that needs no server."""
