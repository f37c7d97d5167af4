"""What a run survives: kills, full disks, hours of training, and the years since it was written.

`children` runs advect in processes that may be killed, `operations` kills them at a chosen file operation, `folders`
says whether what they left behind is whole and equal. The other files are the experiments.
"""
