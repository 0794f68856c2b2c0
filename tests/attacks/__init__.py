"""Files that mean harm; README.md lists them."""
