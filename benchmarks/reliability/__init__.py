"""How advect behaves when things go wrong: each benchmark here is one command.

`python -m benchmarks.reliability` kills, fills disks and runs for long: `children` runs advect in processes that may be
killed, `operations` kills them at a chosen file operation, `folders` says whether what they left is whole and equal.
`python -m benchmarks.reliability.fuzz` damages files, `guided` does as coverage leads, `gallery` shows what is said of
bad input.
"""
