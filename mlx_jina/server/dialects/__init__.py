"""One file for each client's way of asking."""
