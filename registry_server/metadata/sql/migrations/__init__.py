"""How the schema came to be what it is: `versions/` in order, each revision numbered."""
