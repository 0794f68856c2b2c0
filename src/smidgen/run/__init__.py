"""The running half: pictures in, names and scores out, without PyTorch. A room loads what it needs, when it is used."""
