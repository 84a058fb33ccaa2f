"""The slow tier: a stable base that is trained beside the stream on replayed and recent events, and evaluated frozen.

What belongs here is everything about bases: their artifacts, the events kept for replay, their training, and the
rebuilding of the fast tier's heads on a new one. torch is imported by what trains, when it trains, and by nothing else;
`base` alone is what learners and servers need, and it needs ONNX Runtime.
"""
