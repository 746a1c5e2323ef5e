"""The protocol on the wire: requests in, responses out."""
