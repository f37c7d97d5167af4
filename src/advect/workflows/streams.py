"""Numbers of the streams of `generator_for` that are drawn from outside the loop, whose own are below 10."""

FIT, SOURCE, SCORE, SAMPLE, EVALUATE, CALIBRATE, PAIR = 11, 12, 13, 14, 15, 16, 17
TAUGHT = 19  # `probes` has 18
