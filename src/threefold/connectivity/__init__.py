"""The edge that devices talk to: who is it, from which device, is the request really theirs, was it asked before."""
