"""Episodes on disk and in memory: recording, reading and the statistics that normalise them."""
