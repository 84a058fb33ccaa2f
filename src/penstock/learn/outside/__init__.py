"""Members of the mixture from outside: models of River, scikit-learn and ONNX that the service file names.

Here belongs what knows these libraries, and how their models travel; what the mixture makes of them stands in
`learn.fast`, which knows none of them. Libraries are imported where a service names one, and nowhere else.
"""
