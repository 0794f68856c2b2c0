"""smidgen: a trained network and a limit in, one small file that runs by itself out."""
