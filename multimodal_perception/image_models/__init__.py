"""Image networks of other projects, imported from ONNX files."""
