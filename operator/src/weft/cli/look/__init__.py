"""`weft status | tree | why | pause | resume | report | ui`: what a person asks of a cluster that Weft works in.

These read the API with the rights of whoever asks, and leave out, by name, what those do not allow.
"""
