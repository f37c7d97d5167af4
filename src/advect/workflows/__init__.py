"""What a verb does, without a face: train, generate, score, transport, evaluate, report.

A workflow takes records and gives records; it speaks to a `Listener` and never prints. The command and the Python API
are thin layers over these functions.
"""
